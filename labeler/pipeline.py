"""Tell the whole story, top-down: gather evidence, read it, label a feature.

    evidence folder = gather_evidence(subject, sae, corpus, config, out)        one pass over the corpus
    evidence        = read_evidence(folder, feature_index, recipe)              what one feature did
    result          = await label_feature(evidence, recipe, llm, null)          a label, and how far to trust it

The command line runs these in one process; the workers run the same, cut into tasks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labeler.errors import ConfigurationError, LLMError
from labeler.evidence.store import EvidenceFolder
from labeler.explain.needs import check_recipe
from labeler.llm import LLM
from labeler.recipe import GatherConfig, Recipe
from labeler.records import FeatureEvidence, Label, LabeledFeature, State, Usage
from labeler.score.intervention.judge import score_interventions
from labeler.score.score_label import score_label
from labeler.steps.candidates import lookup_of, make_label
from labeler.steps.flow import read_then
from labeler.steps.null import NullLabels
from labeler.steps.read import read_or_failed, unlabeled

if TYPE_CHECKING:
    from labeler.evidence.progress import Progress
    from labeler.sae import SAE
    from labeler.subject.corpus import Corpus
    from labeler.subject.model import Subject


def gather_evidence(
    subject: Subject,
    sae: SAE,
    corpus: Corpus,
    config: GatherConfig,
    out: Path,
    *,
    hookpoint: str | None = None,
    shard: tuple[int, int] = (1, 1),
    force: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """Read the corpus once and write into `out` what each feature did; a killed pass continues where it was.

    With `shard=(i, n)` only the i-th of n parts is read, and `merge_shards(out)` ends the pass. An SAE that explains too
    little is refused (evidence/self_check.py) unless `force` is given.
    """
    from labeler.evidence.gather_all import gather_for_all  # here, since labels are made without torch
    from labeler.evidence.target import choose_target

    targets = {out: choose_target(subject, sae, hookpoint)}
    gather_for_all(subject, targets, corpus, config, shard=shard, force=force, on_progress=on_progress)
    return out


async def label_feature(
    evidence: FeatureEvidence, recipe: Recipe, llm: LLM | None, null: Sequence[Label]
) -> LabeledFeature:
    """Explain a feature on its EXPLAIN contexts, then test the label on its HELD_OUT contexts.

    `null` holds labels of other features. A feature that cannot be labeled comes back with its reason; only an
    endpoint that cannot work at all raises (ConfigurationError).
    """
    if evidence.too_little is not None:
        return unlabeled(evidence, *evidence.too_little)
    try:
        made = await make_label(evidence, recipe, llm)
    except ConfigurationError:
        raise
    except LLMError as error:
        return unlabeled(evidence, State.FAILED, f"{error.kind}: {error}", error.usage or Usage())
    used = made.tested_by(recipe)
    tested = await score_label(made.label, evidence.held_out, used, llm, baseline=lookup_of(evidence), null=null)
    usage = made.usage + tested.usage
    if tested.failure is not None:
        # A label that could not be tested is not a result. What it cost is in the ledger, so trying again is cheap.
        return unlabeled(evidence, State.FAILED, tested.failure, usage)
    causal, spent = await score_interventions(made.label, evidence.steered, null, used, llm)
    result = LabeledFeature(evidence.feature_index, State.LABELED, evidence.statistics, label=made.label)
    scores = tested.scores + causal
    return replace(result, scores=scores, simulations=tested.simulations, usage=usage + spent, origin=made.origin)


async def label_features(
    folder: EvidenceFolder,
    features: Iterable[int] | AsyncIterable[int],
    recipe: Recipe,
    llm: LLM | None,
    *,
    at_once: int = 16,
    null: NullLabels | None = None,
) -> AsyncGenerator[LabeledFeature, None]:
    """Label many features, `at_once` in flight; results come as they are ready, in any order.

    Give `null` where many calls are about one folder and recipe: learning it takes as long as a hundred features.
    """
    check_recipe(recipe, folder)
    folder.check_shared()
    others = null or NullLabels(folder, recipe)

    async def label(evidence: FeatureEvidence) -> LabeledFeature:
        return await label_feature(evidence, recipe, llm, others.for_feature(evidence.feature_index))

    read = partial(read_or_failed, folder, recipe=recipe)
    async with aclosing(read_then(label, read, features, at_once, in_thread=llm is not None)) as results:
        async for result in results:
            yield result
