"""Test one label with everything that the recipe names, in one pass over its held-out contexts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labeler.errors import InputError
from labeler.llm import LLM
from labeler.recipe import Recipe, ScorerConfig, SimulatorConfig
from labeler.records import Context, Label, Score, Simulation
from labeler.score.detection import score_by_detection
from labeler.score.embedding import score_by_embedding
from labeler.score.fuzzing import score_by_fuzzing
from labeler.score.items import Measure
from labeler.score.lookups import Lookups, table_of
from labeler.score.scores import is_main, simulation_scores
from labeler.score.simulate import simulate_with_llm
from labeler.score.simulate_by_lookup import predict_all, simulate_by_lookup


@dataclass(frozen=True)
class Tested:
    """One label's scores on held-out contexts."""

    scores: tuple[Score, ...]
    simulations: tuple[Simulation, ...]

    @property
    def failure(self) -> str | None:
        """Return the reason if the label is untested because no simulation succeeded, else None."""
        if any(s.predicted is not None for s in self.simulations):
            return None
        reason = next((s.reason for s in self.simulations), None)
        return f"no simulation succeeded: {reason}" if reason else "no held-out contexts"


async def score_label(
    label: Label,
    contexts: Sequence[Context],
    recipe: Recipe,
    llm: LLM | None,
    *,
    baseline: Label | None = None,
    null: Sequence[Label] = (),
) -> Tested:
    """Test a label on contexts of HELD_OUT documents with everything that the recipe names.

    `baseline` is the look-up label of the same feature and `null` holds look-up labels of other features. A context
    that got no usable reply is counted and left out of the scores. Raises ConfigurationError where the endpoint
    cannot work at all. Raises InputError where the recipe asks an LLM and there is none.
    """
    lookups = Lookups(baseline, tuple(null))
    measure = Measure(recipe.confidence, recipe.seed)
    distinct = list(_distinct(contexts).values())
    # An intervention is made where the subject is, not here.
    configs = [c for c in recipe.scorers if c.kind != "intervention"]
    if missing := [c.kind for c in configs if c.kind not in _TESTS]:
        raise InputError(f"scorer {missing[0]!r} has no function in _TESTS (labeler/score/score_label.py)")
    tests = [_TESTS[c.kind](label, distinct, c, needed(llm), lookups, measure) for c in configs]
    simulations, *tested = await _all(simulate(label, contexts, recipe.simulator, llm), *tests)
    scores = _simulation_scores(simulations, recipe, lookups)
    return Tested(sum(tested, scores), simulations)


async def simulate(
    label: Label, contexts: Sequence[Context], config: SimulatorConfig, llm: LLM | None
) -> tuple[Simulation, ...]:
    """Simulate the contexts that the configuration wants simulated."""
    main = is_main(contexts)
    wanted = [
        c for c, m in zip(contexts, main, strict=True) if m or (config.simulate == "all" and c.weight is not None)
    ]
    if config.kind == "lookup":
        return simulate_by_lookup(label, wanted)
    distinct = _distinct(wanted)
    asked = await simulate_with_llm(label, list(distinct.values()), config, needed(llm))
    simulated = dict(zip(distinct, asked, strict=True))
    return tuple(replace(simulated[_window(c)], context=c) for c in wanted)


def _distinct(contexts: Sequence[Context]) -> dict[tuple[int, ...], Context]:
    """Return each window once: a feature with few firing windows has the same ones by peak and by design."""
    return {_window(c): c for c in reversed(contexts)}


def _window(context: Context) -> tuple[int, ...]:
    return (context.token_start, *context.token_ids)


def _simulation_scores(simulations: Sequence[Simulation], recipe: Recipe, lookups: Lookups) -> tuple[Score, ...]:
    simulated = [s.context for s in simulations]
    by_lookup = None if lookups.baseline is None else simulate_by_lookup(lookups.baseline, simulated)
    scores = simulation_scores(
        simulations,
        baseline=None if by_lookup is None else [s.predicted for s in by_lookup],
        null=predict_all([table_of(other) for other in lookups.null], simulated),
        confidence=recipe.confidence,
        seed=recipe.seed,
    )
    if recipe.simulator.simulate == "all":
        return scores
    reason = "the recipe simulates TOP and RANDOM contexts alone"
    return tuple(replace(s, value=None, reason=reason) if s.name == "simulation_weighted" else s for s in scores)


_Test = Callable[[Label, Sequence[Context], ScorerConfig, LLM, Lookups, Measure], Awaitable[tuple[Score, ...]]]


_TESTS: dict[str, _Test] = {
    "detection": score_by_detection,
    "fuzzing": score_by_fuzzing,
    "embedding": score_by_embedding,
}


async def _all(*awaitables: Awaitable[Any]) -> list[Any]:
    """Wait for all results. When one raises, the others still end, since requests in flight are paid for."""
    done = await asyncio.gather(*awaitables, return_exceptions=True)
    for outcome in done:
        if isinstance(outcome, BaseException):
            raise outcome
    return list(done)


def needed(llm: LLM | None) -> LLM:
    if llm is None:
        raise InputError("this recipe asks an LLM: name an endpoint with --base-url, or set OPENAI_API_KEY")
    return llm
