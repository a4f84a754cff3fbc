"""The whole story, top-down.

    evidence folder = gather_evidence(subject, sae, corpus, config, out)        one pass over the corpus
    evidence        = read_evidence(folder, feature_index, recipe)              what one feature did
    result          = await label_feature(evidence, recipe, llm, null)          a label, and how far to trust it

The command line runs these in one process; the workers run the same, cut into tasks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from labeler.errors import ConfigurationError, InputError, LLMError
from labeler.evidence.choose import choose_evidence, explain_windows, null_features
from labeler.evidence.store import EvidenceFolder
from labeler.explain.llm import explain_with_llm
from labeler.explain.lookup import explain_by_lookup, predict_all, simulate_by_lookup
from labeler.llm import LLM
from labeler.recipe import ContextsConfig, ExplainerConfig, GatherConfig, Recipe, SimulatorConfig
from labeler.records import (
    Context,
    Evidence,
    FeatureStatistics,
    Label,
    LabeledFeature,
    Simulation,
    Split,
    State,
    TokenTable,
    Usage,
)
from labeler.score.scores import simulation_scores
from labeler.score.simulate import simulate_with_llm

if TYPE_CHECKING:
    from labeler.evidence.progress import Progress
    from labeler.evidence.target import Target
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
    on_progress: Progress | None = None,
) -> Path:
    """Read the corpus once and write into `out` what each feature did; a killed pass continues where it was.

    With `shard=(i, n)` only the i-th of n parts is read, and `merge_shards(out)` ends the pass.
    """
    from labeler.evidence.target import choose_target

    targets = {out: choose_target(subject, sae, hookpoint)}
    gather_for_all(subject, targets, corpus, config, shard=shard, on_progress=on_progress)
    return out


def gather_for_all(
    subject: Subject,
    targets: Mapping[Path, Target],
    corpus: Corpus,
    config: GatherConfig,
    *,
    shard: tuple[int, int] = (1, 1),
    memory_bytes: int | None = None,
    neighbours: bool | None = None,
    on_progress: Progress | None = None,
) -> None:
    """The same for several SAEs, by evidence folder: the corpus goes through the subject once for all of them."""
    from labeler.evidence.gather import gather_shard
    from labeler.evidence.merge import is_merged, merge_shards
    from labeler.evidence.prepare import prepare
    from labeler.evidence.progress import no_progress

    began, progress = time.monotonic(), on_progress or no_progress
    tokenized = prepare(targets, subject, corpus, config, neighbours=neighbours, on_progress=progress)
    unread = {out: target for out, target in targets.items() if not is_merged(out)}
    if unread:
        gather_shard(subject, unread, tokenized, config, shard=shard, memory_bytes=memory_bytes, on_progress=progress)
    if shard == (1, 1):
        for out in unread:
            merge_shards(out, seconds=time.monotonic() - began)


def read_evidence(folder: EvidenceFolder, feature_index: int, recipe: Recipe) -> Evidence:
    """The contexts that the recipe asks for, and the look-up label that every other label is measured against."""
    if (reason := too_little(folder.statistics(feature_index), recipe.contexts)) is not None:
        return Evidence(feature_index, folder.statistics(feature_index), (), (), too_little=reason)
    evidence = choose_evidence(folder, feature_index, recipe.contexts, recipe.seed)
    windows = explain_windows(folder, feature_index, evidence.held_out, recipe.contexts.near_duplicate)
    return replace(evidence, lookup=explain_by_lookup(windows, folder.vocabulary))


def too_little(statistics: FeatureStatistics, config: ContextsConfig) -> tuple[State, str] | None:
    """The state of a feature that cannot be labelled, with its reason; None for one that can."""
    if statistics.n_firings == 0:
        return State.SILENT, f"never fired on {statistics.n_tokens:,} tokens"
    for split, least in zip(Split, config.min_firing_windows, strict=True):
        n = statistics.n_firing_windows_by_split[split]
        if n < least:
            return State.RARE, f"fires in {n} {split.replace('_', '-')} windows; at least {least} are needed"
    return None


async def label_feature(evidence: Evidence, recipe: Recipe, llm: LLM | None, null: Sequence[Label]) -> LabeledFeature:
    """Explain a feature on its EXPLAIN contexts, then test the label on its HELD_OUT contexts.

    `null` holds labels of other features. A feature that cannot be labelled comes back with its reason; only an
    endpoint that cannot work at all raises (ConfigurationError).
    """
    if evidence.too_little is not None:
        state, reason = evidence.too_little
        return LabeledFeature(evidence.feature_index, state, evidence.statistics, reason)
    try:
        label, explained = await explain(evidence, recipe.explainer, llm)
    except ConfigurationError:
        raise
    except LLMError as error:
        return _failed(evidence, error)
    simulations, simulated = await simulate(label, evidence.held_out, recipe.simulator, llm)
    if all(s.predicted is None for s in simulations):
        # A label that could not be tested is not a result. What it cost is in the ledger, so trying again is cheap.
        reason = f"no simulation succeeded: {simulations[0].reason}" if simulations else "no held-out contexts"
        return LabeledFeature(
            evidence.feature_index, State.FAILED, evidence.statistics, reason, usage=explained + simulated
        )
    scores = simulation_scores(
        simulations,
        baseline=[s.predicted for s in simulate_by_lookup(_lookup(evidence), evidence.held_out)],
        null=predict_all([table_of(other) for other in null], evidence.held_out),
        confidence=recipe.confidence,
        seed=recipe.seed,
    )
    return LabeledFeature(
        evidence.feature_index, State.LABELED, evidence.statistics,
        label=label, scores=scores, simulations=simulations, usage=explained + simulated,
    )  # fmt: skip


async def explain(evidence: Evidence, config: ExplainerConfig, llm: LLM | None) -> tuple[Label, Usage]:
    if config.kind == "lookup":
        return _lookup(evidence), Usage()
    return await explain_with_llm(evidence.explain, config, _needed(llm))


async def simulate(
    label: Label, contexts: Sequence[Context], config: SimulatorConfig, llm: LLM | None
) -> tuple[tuple[Simulation, ...], Usage]:
    if config.kind == "lookup":
        return simulate_by_lookup(label, contexts), Usage()
    return await simulate_with_llm(label, contexts, config, _needed(llm))


def _failed(evidence: Evidence, error: LLMError) -> LabeledFeature:
    return LabeledFeature(
        evidence.feature_index,
        State.FAILED,
        evidence.statistics,
        f"{error.kind}: {error}",
        usage=error.usage or Usage(),
    )


def _lookup(evidence: Evidence) -> Label:
    if evidence.lookup is None:
        raise ValueError(
            f"feature {evidence.feature_index}: read the evidence with read_evidence, which learns the look-up label"
        )
    return evidence.lookup


def table_of(label: Label) -> TokenTable:
    if label.table is None:
        raise ValueError(f"label {label.text!r} has no look-up table")
    return label.table


def _needed(llm: LLM | None) -> LLM:
    if llm is None:
        raise InputError("this recipe asks an LLM: name an endpoint with --base-url, or set OPENAI_API_KEY")
    return llm


class NullLabels:
    """Look-up labels of other features: what a label that has nothing to do with a feature scores on it."""

    def __init__(self, folder: EvidenceFolder, recipe: Recipe) -> None:
        # One more than needed, so that a feature of the null still meets n_null labels of others.
        members = null_features(folder, recipe.contexts, recipe.n_null + 1, recipe.seed)
        self._labels = {f: _lookup(read_evidence(folder, f, recipe)) for f in members}
        self._n = recipe.n_null

    def for_feature(self, feature_index: int) -> list[Label]:
        return [label for f, label in self._labels.items() if f != feature_index][: self._n]


async def label_features(
    folder: EvidenceFolder, features: Iterable[int], recipe: Recipe, llm: LLM | None, *, at_once: int = 16
) -> AsyncIterator[LabeledFeature]:
    """Label many features, `at_once` in flight; results come as they are ready, in any order."""
    null = NullLabels(folder, recipe)

    async def one(feature_index: int) -> LabeledFeature:
        evidence = read_evidence(folder, feature_index, recipe)
        return await label_feature(evidence, recipe, llm, null.for_feature(feature_index))

    todo = iter(features)
    running: set[asyncio.Task[LabeledFeature]] = set()
    try:
        while True:
            while len(running) < at_once and (feature := next(todo, None)) is not None:
                running.add(asyncio.ensure_future(one(feature)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda t: t.get_name()):
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
