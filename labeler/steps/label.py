"""Explain one feature and test its label, or say why it has none."""

from __future__ import annotations

from collections.abc import Sequence

from labeler.errors import ConfigurationError, LLMError
from labeler.llm import LLM
from labeler.recipe import Recipe
from labeler.records import FeatureEvidence, Label, LabeledFeature, State
from labeler.score.intervention.judge import score_interventions
from labeler.score.score_label import score_label
from labeler.steps.candidates import lookup_of, make_label
from labeler.steps.read import unlabeled


async def label_or_reason(
    evidence: FeatureEvidence, recipe: Recipe, llm: LLM | None, null: Sequence[Label]
) -> LabeledFeature:
    """Return the tested label of a feature, or the reason why it has none; the caller knows what `llm` cost.

    Raises only ConfigurationError.
    """
    if evidence.too_little is not None:
        return unlabeled(evidence, *evidence.too_little)
    try:
        made = await make_label(evidence, recipe, llm)
    except ConfigurationError:
        raise
    except LLMError as error:
        return unlabeled(evidence, State.FAILED, f"{error.kind}: {error}")
    used = made.tested_by(recipe)
    tested = await score_label(made.label, evidence.held_out, used, llm, baseline=lookup_of(evidence), null=null)
    if tested.failure is not None:
        # A label that could not be tested is not a result. What it cost is in the ledger, so trying again is cheap.
        return unlabeled(evidence, State.FAILED, tested.failure)
    return LabeledFeature(
        evidence.feature_index,
        State.LABELED,
        evidence.statistics,
        label=made.label,
        scores=tested.scores + await score_interventions(made.label, evidence.steered, null, used, llm),
        simulations=tested.simulations,
        origin=made.origin,
    )
