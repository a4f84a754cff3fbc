"""Make a label by triage, the best of K, and a revision; decisions use documents that report nothing.

    a feature of first positions ──► the look-up label, and no LLM is asked
    look-up label ──good enough on `choose`──► kept, and no LLM is asked                      recipe.triage
          │ no
    K labels ──best on `choose`──► one label                                       recipe.explainer.best_of
          │
    its mistakes on `show` ──► another label ──better on `compare`──► kept          recipe.explainer.revise

The reported score is made afterwards, on documents that none of this saw. The best of five labels looks better than it
is on the documents that chose it, by some .10 (the winner's curse; docs/reading-a-score.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from labeler.errors import LLMError
from labeler.explain.llm import explain_with_llm
from labeler.explain.parse import parse_label
from labeler.explain.revise import counter_examples, revision_prompt
from labeler.llm import LLM
from labeler.llm.asking import ask, settled
from labeler.recipe import ExplainerConfig, Recipe, SimulatorConfig
from labeler.records import (
    FIRST_POSITION,
    FIRST_POSITION_SHARE,
    Candidate,
    Context,
    FeatureEvidence,
    Label,
    Origin,
    Score,
)
from labeler.score.score_label import needed, score_label
from labeler.score.simulate import simulate_with_llm

T = TypeVar("T")

_BY_POSITION = (
    f"{FIRST_POSITION}: at least {FIRST_POSITION_SHARE:.0%} of its firings are on the first token of a sequence or on massive "
    "tokens, so no LLM is asked what they have in common"
)


@dataclass(frozen=True)
class Made:
    """A label that awaits its test."""

    label: Label
    origin: Origin | None = None  # None: the recipe left nothing to decide

    def tested_by(self, recipe: Recipe) -> Recipe:
        """Return the recipe for the test: a look-up label that triage kept is tested without an LLM."""
        if self.origin is None or self.origin.asked_llm:
            return recipe
        return _without_llm(recipe)


async def make_label(evidence: FeatureEvidence, recipe: Recipe, llm: LLM | None) -> Made:
    """Return the label that the recipe decides for. Raises LLMError where no label could be made."""
    if recipe.explainer.kind == "lookup":
        return Made(lookup_of(evidence))
    if evidence.statistics.mark is not None:
        return Made(lookup_of(evidence), Origin("lookup", _BY_POSITION, asked_llm=False))
    looked_up = await triage(evidence, recipe)
    if looked_up is not None and looked_up.kept:
        return _kept_lookup(evidence, recipe, looked_up)
    made = await _best_of(evidence, recipe, needed(llm))
    if recipe.explainer.revise:
        made = await _revised(made, evidence, recipe, needed(llm))
    if looked_up is None or made.origin is None:
        return made
    return replace(made, origin=replace(made.origin, candidates=(looked_up, *made.origin.candidates)))


def lookup_of(evidence: FeatureEvidence) -> Label:
    if evidence.lookup is None:
        raise ValueError(
            f"feature {evidence.feature_index}: read the evidence with read_evidence, which learns the look-up label"
        )
    return evidence.lookup


# Triage


async def triage(evidence: FeatureEvidence, recipe: Recipe) -> Candidate | None:
    """Decide if the look-up label is kept, and return its score; None for a recipe without triage."""
    if recipe.triage is None:
        return None
    lookup = lookup_of(evidence)
    score = await _tested(lookup, evidence.choose, _without_llm(recipe), None)
    good = score.value is not None and score.value >= recipe.triage.keep_lookup_from
    return _candidate(lookup, "triage", good or (evidence.statistics.density or 0.0) > recipe.triage.densest, score)


def _kept_lookup(evidence: FeatureEvidence, recipe: Recipe, candidate: Candidate) -> Made:
    assert recipe.triage is not None
    density = evidence.statistics.density or 0.0  # unknown is not too dense
    if density > recipe.triage.densest:
        why = f"fires on {density:.0%} of all tokens; above {recipe.triage.densest:.0%} no LLM is asked"
    else:
        why = (
            f"the look-up label scores {candidate.score:.2f} on {candidate.n} contexts set aside; "
            f"from {recipe.triage.keep_lookup_from:.2f} no LLM is asked"
        )
    return Made(lookup_of(evidence), Origin("lookup", why, asked_llm=False, candidates=(candidate,)))


def _without_llm(recipe: Recipe) -> Recipe:
    return replace(recipe, explainer=ExplainerConfig(), simulator=SimulatorConfig(), scorers=(), triage=None)


# The best of K


async def _best_of(evidence: FeatureEvidence, recipe: Recipe, llm: LLM) -> Made:
    method, k = recipe.explainer.method, recipe.explainer.best_of
    by_draw = await _explanations(evidence, recipe.explainer, llm)
    draws, labels = list(by_draw), list(by_draw.values())
    if k == 1:
        why = "the look-up label was not good enough" if recipe.triage else "one label, shown what it gets wrong"
        decided = recipe.triage is not None or recipe.explainer.revise
        return Made(labels[0], Origin(method, why) if decided else None)
    if len(labels) == 1:
        return Made(labels[0], Origin(method, f"the only label that {k} explanations gave", draw=draws[0]))
    scores = await _all([_tested(label, evidence.choose, recipe, llm) for label in labels])
    best = max(range(len(labels)), key=lambda i: -2.0 if (value := scores[i].value) is None else value)
    candidates = tuple(
        _candidate(label, "best of K", i == best, score)
        for i, (label, score) in enumerate(zip(labels, scores, strict=True))
    )
    if scores[best].value is None:
        why = f"the first of {len(labels)} labels: none has a score on the documents set aside for the choice"
    else:
        why = f"the best of {len(labels)} labels on {scores[best].n} contexts set aside for the choice"
    return Made(labels[best], Origin(method, why, candidates=candidates, draw=draws[best]))


async def _explanations(evidence: FeatureEvidence, config: ExplainerConfig, llm: LLM) -> dict[int, Label]:
    """Return the different labels of all draws, by draw. Raises the first LLMError if every draw failed."""
    draws = evidence.draws[: config.best_of]
    answers = await settled(
        [explain_with_llm(shown, config, llm, output=evidence.output, draw=i) for i, shown in enumerate(draws)]
    )
    labels: dict[int, Label] = {}
    for draw, answer in enumerate(answers):
        if not isinstance(answer, LLMError) and answer not in labels.values():
            labels[draw] = answer
    failure = next((a for a in answers if isinstance(a, LLMError)), None)
    if not labels and failure is not None:
        raise failure
    return labels


# Revision


async def _revised(made: Made, evidence: FeatureEvidence, recipe: Recipe, llm: LLM) -> Made:
    """Return the label, or a second one made from the first one's mistakes: the one that scores higher."""
    shown = await simulate_with_llm(made.label, evidence.show, recipe.simulator, llm)
    examples = counter_examples(shown)
    if not examples:
        return _unrevised(made, "no counter-examples were found")
    prompt = revision_prompt(made.label, examples, recipe.explainer)
    (answer,) = await settled([ask(llm, prompt, parse_label)])
    if isinstance(answer, LLMError):
        return _unrevised(made, f"the revision failed ({answer.kind})")
    revision = Label(answer, made.label.explainer)
    if revision.text == made.label.text:
        return _unrevised(made, "shown what it gets wrong, it stayed as it is")
    old, new = await _all([_tested(label, evidence.compare, recipe, llm) for label in (made.label, revision)])
    better = new.value is not None and new.value > (0.0 if old.value is None else old.value)
    candidates = (
        _candidate(made.label, "revision", not better, old),
        _candidate(revision, "revision", better, new),
    )
    if not better:
        return _unrevised(made, "its revision scored no better on documents that neither saw", candidates)
    made = _unrevised(made, "then revised, and better on documents that neither saw", candidates)
    assert made.origin is not None
    return replace(made, label=revision, origin=replace(made.origin, revised=True))


def _unrevised(made: Made, why: str, candidates: tuple[Candidate, ...] = ()) -> Made:
    assert made.origin is not None
    origin = replace(made.origin, why=f"{made.origin.why}; {why}", candidates=(*made.origin.candidates, *candidates))
    return replace(made, origin=origin)


# What the decisions share


async def _tested(label: Label, contexts: Sequence[Context], recipe: Recipe, llm: LLM | None) -> Score:
    """Return the main score of a label on the documents of a decision, by simulation only."""
    tested = await score_label(label, contexts, replace(recipe, scorers=()), llm)
    return next(s for s in tested.scores if s.name == "simulation")


def _candidate(label: Label, decided: str, kept: bool, score: Score) -> Candidate:
    return Candidate(label.text, decided, kept, score.value, score.reason, score.n)


async def _all(answers: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for all answers at the same time; raise any error."""
    ended = await settled(answers)
    for answer in ended:
        if isinstance(answer, LLMError):
            raise answer
    return [a for a in ended if not isinstance(a, LLMError)]
