"""The cost of labeling, before anything is spent: the real prompts of a sample of features, and no request.

The prompts that test a label need a label before there is one. The look-up label takes its place, since it is about as
long. A plan is an upper bound: it includes every step that a recipe may decide on, such as a revision. Repairs of
unreadable replies are not in it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from labeler.errors import DamagedFeatureError, LLMError
from labeler.evidence.store import EvidenceFolder
from labeler.explain.llm import draw_prompt
from labeler.explain.needs import check_recipe
from labeler.explain.revise import counter_examples, revision_prompt
from labeler.llm.prices import Prices
from labeler.llm.prompt import Answering, AnyPrompt, EchoPrompt, EmbeddingPrompt, Prompt
from labeler.llm.tokens import TokenCounter, token_counter
from labeler.recipe import Recipe
from labeler.records import FeatureEvidence, Label, Simulation
from labeler.score.intervention.judge import score_interventions
from labeler.score.score_label import score_label
from labeler.score.simulate import simulate_with_llm
from labeler.steps.candidates import lookup_of, triage
from labeler.steps.null import NullLabels
from labeler.steps.read import read_evidence

# The tokens of a usual reply, measured with strong models on code; the most a request may cost is its max_tokens.
_USUAL_REPLY = {"explain": 40, "revise": 40, "simulate": 120, "detection": 90, "fuzzing": 90, "intervention": 60}


@dataclass(frozen=True)
class StagePlan:
    """All requests of one kind to one model, over all features."""

    stage: str  # "explain", "choose", "revise", "test"
    purpose: str  # the use of the requests, as the ledger names it
    model: str
    requests: int
    tokens_in: int
    tokens_out: int  # in usual replies
    cost_usd: float | None  # None: the price of the model is not known


@dataclass(frozen=True)
class Plan:
    """The requests, tokens and cost of labeling some features. Features that are silent, rare or kept cost nothing."""

    n_features: int
    n_silent: int
    n_rare: int
    n_kept_lookup: int  # estimated from the sample: triage keeps their look-up label
    n_asked: int  # features that need an LLM
    n_sampled: int
    counted: str  # how tokens were counted
    stages: tuple[StagePlan, ...]

    @property
    def requests(self) -> int:
        return sum(s.requests for s in self.stages)

    @property
    def tokens_in(self) -> int:
        return sum(s.tokens_in for s in self.stages)

    @property
    def tokens_out(self) -> int:
        return sum(s.tokens_out for s in self.stages)

    @property
    def cost_usd(self) -> float | None:
        """Return the total cost; None where any part is unknown, since unknown is not zero."""
        known = [s.cost_usd for s in self.stages if s.cost_usd is not None]
        return sum(known) if len(known) == len(self.stages) else None


async def plan_labels(
    folder: EvidenceFolder,
    features: Sequence[int],
    recipe: Recipe,
    prices: Prices,
    *,
    counter: TokenCounter | None = None,
    sample: int = 40,
) -> Plan:
    """Plan the requests, tokens and money for labeling `features`, from the prompts of `sample` of them."""
    check_recipe(recipe, folder)
    counter = counter or token_counter()
    labelable, n_silent, n_rare = _labelable(folder, features, recipe)
    chosen = _spread(labelable, sample)
    null = NullLabels(folder, recipe) if recipe.intervenes else None  # the question holds its texts
    sums: defaultdict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros(3))
    n_kept = n_unread = 0
    for feature in chosen:
        try:
            evidence = read_evidence(folder, feature, recipe)
        except DamagedFeatureError:  # it will fail, and costs nothing
            n_unread += 1
            continue
        if evidence.too_little is not None:  # this shows only when its contexts are read
            n_unread += 1
            continue
        looked_up = await triage(evidence, recipe)
        if looked_up is not None and looked_up.kept:
            n_kept += 1
            continue
        for stage, prompt in await planned_requests(evidence, recipe, null.for_feature(feature) if null else ()):
            sums[stage, prompt.purpose, prompt.model] += (1, *_tokens(prompt, counter))
    scale = len(labelable) / len(chosen) if chosen else 0.0
    n_kept_in_all, n_unread_in_all = round(n_kept * scale), round(n_unread * scale)
    n_asked = len(labelable) - n_kept_in_all - n_unread_in_all if sums else 0
    return Plan(
        len(features),
        n_silent,
        n_rare + n_unread_in_all,
        n_kept_in_all,
        n_asked,
        len(chosen),
        counter.name,
        tuple(_stage(key, total * scale, prices) for key, total in sums.items()),
    )


async def planned_requests(
    evidence: FeatureEvidence, recipe: Recipe, null: Sequence[Label] = ()
) -> list[tuple[str, AnyPrompt]]:
    """List every request that one feature can lead to, with its stage, in the order of the stages."""
    config = recipe.explainer
    asks = config.kind != "lookup"
    label = replace(lookup_of(evidence), explainer=config.name)
    planned: list[tuple[str, AnyPrompt]] = []

    async def plan(stage: str, asking: Callable[[_Recorder], Awaitable[Any]], times: int = 1) -> None:
        recorder = _Recorder()
        await asking(recorder)
        planned.extend((stage, prompt) for prompt in recorder.prompts * times)

    if asks:
        planned += [
            ("explain", draw_prompt(contexts, config, output=evidence.output, draw=i))
            for i, contexts in enumerate(evidence.draws)
        ]
    deciding = replace(recipe, scorers=())
    if asks and config.best_of > 1:
        await plan("choose", lambda llm: score_label(label, evidence.choose, deciding, llm), times=config.best_of)
    if config.revise:
        await plan("revise", lambda llm: simulate_with_llm(label, evidence.show, recipe.simulator, llm))
        planned.append(("revise", _revision(label, evidence, recipe)))
        await plan("revise", lambda llm: score_label(label, evidence.compare, deciding, llm), times=2)
    await plan("test", lambda llm: score_label(label, evidence.held_out, recipe, llm))
    await plan("test", lambda llm: score_interventions(label, evidence.steered, null, recipe, llm))
    return planned


def _revision(label: Label, evidence: FeatureEvidence, recipe: Recipe) -> Prompt:
    """Make the revision prompt with the most counter-examples: for a label that misses every firing."""
    silence = [Simulation(c, (0.0,) * len(c.tokens)) for c in evidence.show]
    return revision_prompt(label, counter_examples(silence), recipe.explainer)


class _NotSentError(LLMError):
    kind = "not sent"


class _Recorder(Answering):
    """An LLM that sends nothing: it records each request and answers none."""

    def __init__(self) -> None:
        self.prompts: list[AnyPrompt] = []

    async def ask(self, prompt: AnyPrompt) -> NoReturn:
        self.prompts.append(prompt)
        raise _NotSentError("a plan sends nothing")


def _tokens(prompt: AnyPrompt, counter: TokenCounter) -> tuple[int, int]:
    """Count the tokens in, and out in a usual reply."""
    if isinstance(prompt, EchoPrompt):
        return counter.count(prompt.text), 0
    if isinstance(prompt, EmbeddingPrompt):
        return sum(counter.count(text) for text in prompt.texts), 0
    tokens_in = sum(counter.count(m.content) for m in prompt.messages)
    return tokens_in, min(_USUAL_REPLY.get(prompt.purpose, prompt.max_tokens), prompt.max_tokens)


def _stage(key: tuple[str, str, str], total: np.ndarray, prices: Prices) -> StagePlan:
    requests, tokens_in, tokens_out = (math.ceil(n - 1e-6) for n in total)
    return StagePlan(*key, requests, tokens_in, tokens_out, prices.cost(key[2], tokens_in, tokens_out))


def _labelable(folder: EvidenceFolder, features: Sequence[int], recipe: Recipe) -> tuple[list[int], int, int]:
    """Select the features that `too_little` does not exclude, and count the silent and rare ones; a million at once."""
    wanted = np.asarray(features, dtype=np.int64)
    windows = np.asarray(folder.n_firing_windows)[:, wanted]
    silent = windows.sum(axis=0) == 0
    if folder.by_others:  # features that the evidence shows nothing of count as silent where its source says so
        silent &= np.asarray(folder.densities[wanted] == 0)
    rare = (windows < np.array(recipe.contexts.least_firing_windows)[:, None]).any(axis=0) & ~silent
    return wanted[~silent & ~rare].tolist(), int(silent.sum()), int(rare.sum())


def _spread(features: Sequence[int], n: int) -> list[int]:
    """Return `n` of the features at equal steps, or all of them where there are no more."""
    if len(features) <= n:
        return list(features)
    return [features[int((i + 0.5) * len(features) / n)] for i in range(n)]
