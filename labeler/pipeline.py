"""Tell the whole story, top-down: gather evidence, read it, label a feature.

    evidence folder = gather_evidence(subject, sae, corpus, config, out)        one pass over the corpus
    evidence        = read_evidence(folder, feature_index, recipe)              what one feature did
    result          = await label_feature(evidence, recipe, llm, null)          a label, and how far to trust it

The command line runs these in one process; the workers run the same, cut into tasks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labeler.candidates import lookup_of, make_label
from labeler.errors import ConfigurationError, DamagedFeatureError, LLMError
from labeler.evidence.choose import choose_evidence, explain_windows, null_features
from labeler.evidence.steered import read_steered
from labeler.evidence.store import EvidenceFolder
from labeler.explain.lookup import explain_by_lookup
from labeler.explain.needs import check_recipe, output_tokens, reads_output
from labeler.llm import LLM
from labeler.recipe import ContextsConfig, ExplainerConfig, GatherConfig, Recipe, SimulatorConfig
from labeler.records import Evidence, FeatureStatistics, Label, LabeledFeature, Source, Split, State, Usage
from labeler.score.intervention.judge import score_interventions
from labeler.score.score_label import score_label

if TYPE_CHECKING:
    from labeler.evidence.progress import Progress
    from labeler.evidence.target import Target
    from labeler.sae import SAE
    from labeler.subject.corpus import Corpus
    from labeler.subject.model import Subject

log = logging.getLogger(__name__)


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
    from labeler.evidence.target import choose_target

    targets = {out: choose_target(subject, sae, hookpoint)}
    gather_for_all(subject, targets, corpus, config, shard=shard, force=force, on_progress=on_progress)
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
    cross_entropy_tokens: int = 0,
    force: bool = False,
    on_progress: Progress | None = None,
) -> None:
    """Gather for several SAEs, by evidence folder: the corpus goes through the subject once for all of them."""
    from labeler.evidence.gather import gather_shard
    from labeler.evidence.merge import is_merged, merge_shards
    from labeler.evidence.patching import write_losses
    from labeler.evidence.prepare import prepare
    from labeler.evidence.progress import no_progress

    began, progress = time.monotonic(), on_progress or no_progress
    tokenized = prepare(targets, subject, corpus, config, neighbours=neighbours, force=force, on_progress=progress)
    if cross_entropy_tokens:
        for i, (out, target) in enumerate(targets.items()):
            progress("cross-entropy", i, len(targets))
            write_losses(out, subject, target, tokenized, config, cross_entropy_tokens)
            progress("cross-entropy", i + 1, len(targets))
    unread = {out: target for out, target in targets.items() if not is_merged(out)}
    if unread:
        gather_shard(subject, unread, tokenized, config, shard=shard, memory_bytes=memory_bytes, on_progress=progress)
    if shard == (1, 1):
        for i, out in enumerate(unread):
            progress("merge", i, len(unread))
            merge_shards(out, seconds=time.monotonic() - began)
            progress("merge", i + 1, len(unread))


def read_evidence(folder: EvidenceFolder, feature_index: int, recipe: Recipe) -> Evidence:
    """Return the contexts that the recipe asks for, and the look-up label that every other label is measured against.

    A silent or rare feature has neither, and comes with the reason.
    """
    if (reason := too_little(folder.statistics(feature_index), recipe.contexts)) is not None:
        return Evidence(feature_index, folder.statistics(feature_index), (), (), too_little=reason)
    evidence = choose_evidence(folder, feature_index, recipe.contexts, recipe.seed)
    windows = explain_windows(folder, feature_index, evidence.of_held_out_documents, recipe.contexts.near_duplicate)
    # An explainer sees none of the RANDOM windows.
    if not any(w.peak.any() for source, w in windows.items() if source is not Source.RANDOM):
        reason = State.RARE, "each EXPLAIN window that it is known to fire in repeats held-out text"
        return Evidence(feature_index, evidence.statistics, (), (), too_little=reason)
    output = output_tokens(folder, feature_index) if reads_output(recipe.explainer) else None
    steered = read_steered(folder.folder, feature_index) if recipe.intervenes else None
    lookup = explain_by_lookup(windows, folder.vocabulary)
    return replace(evidence, lookup=lookup, output=output, steered=steered)


async def label_from(
    folder: EvidenceFolder, feature_index: int, recipe: Recipe, llm: LLM | None, null: Sequence[Label],
    reader: Executor | None = None,
) -> LabeledFeature:  # fmt: skip
    """Read a feature's evidence and label it. A feature with damaged evidence comes back as `failed`, with the file.

    Evidence is read by `reader`, where one is given. Raises DamagedError where data that all features share are
    damaged.
    """
    read = partial(read_evidence, folder, feature_index, recipe)
    try:
        evidence = read() if reader is None else await asyncio.get_running_loop().run_in_executor(reader, read)
    except DamagedFeatureError as error:
        statistics = folder.statistics_or_unknown(feature_index)
        return LabeledFeature(feature_index, State.FAILED, statistics, error.reason)
    return await label_feature(evidence, recipe, llm, null)


def too_little(statistics: FeatureStatistics, config: ContextsConfig) -> tuple[State, str] | None:
    """Return the state of a feature that cannot be labeled, with its reason; None for one that can."""
    if statistics.n_firings == 0:
        known = "" if statistics.n_tokens is None else f" on {statistics.n_tokens:,} tokens"
        return State.SILENT, f"never fired{known}"
    for split, least in zip(Split, config.least_firing_windows, strict=True):
        n = statistics.n_firing_windows_by_split[split]
        if n < least:
            return State.RARE, f"fires in {n} {split.replace('_', '-')} windows; at least {least} are needed"
    return None


async def label_feature(evidence: Evidence, recipe: Recipe, llm: LLM | None, null: Sequence[Label]) -> LabeledFeature:
    """Explain a feature on its EXPLAIN contexts, then test the label on its HELD_OUT contexts.

    `null` holds labels of other features. A feature that cannot be labeled comes back with its reason; only an
    endpoint that cannot work at all raises (ConfigurationError).
    """
    if evidence.too_little is not None:
        state, reason = evidence.too_little
        return LabeledFeature(evidence.feature_index, state, evidence.statistics, reason)
    try:
        made = await make_label(evidence, recipe, llm)
    except ConfigurationError:
        raise
    except LLMError as error:
        return _failed(evidence, f"{error.kind}: {error}", error.usage or Usage())
    used = made.tested_by(recipe)
    tested = await score_label(made.label, evidence.held_out, used, llm, baseline=lookup_of(evidence), null=null)
    if tested.failure is not None:
        # A label that could not be tested is not a result. What it cost is in the ledger, so trying again is cheap.
        return _failed(evidence, tested.failure, made.usage + tested.usage)
    causal, spent = await score_interventions(made.label, evidence.steered, null, used, llm)
    return LabeledFeature(
        evidence.feature_index, State.LABELED, evidence.statistics, label=made.label, scores=tested.scores + causal,
        simulations=tested.simulations, usage=made.usage + tested.usage + spent, origin=made.origin,
    )  # fmt: skip


def _failed(evidence: Evidence, reason: str, usage: Usage) -> LabeledFeature:
    return LabeledFeature(evidence.feature_index, State.FAILED, evidence.statistics, reason, usage=usage)


class NullLabels:
    """Look-up labels of other features, which show the scores that unrelated labels get."""

    def __init__(self, folder: EvidenceFolder, recipe: Recipe) -> None:
        # One more than needed, so that a feature of the null still meets n_null labels of others.
        members = null_features(folder, recipe.contexts, folder.n_features, recipe.seed)
        # Whatever the recipe decides for a feature of its own, a label of another one is its look-up label.
        plain = replace(
            recipe, explainer=ExplainerConfig(), simulator=SimulatorConfig(), scorers=(), triage=None,
            contexts=replace(recipe.contexts, explain_hard=0, held_out_hard=0),
        )  # fmt: skip
        self._labels = {}
        self._n = recipe.n_null
        n_read = 0
        damaged: dict[str, list[DamagedFeatureError]] = {}
        for f in members:
            if n_read > recipe.n_null:
                break
            try:
                evidence = read_evidence(folder, f, plain)
            except DamagedFeatureError as error:
                damaged.setdefault(error.file, []).append(error)
                continue
            n_read += 1
            if evidence.too_little is None:
                self._labels[f] = lookup_of(evidence)

        # One line for each file: it may have thousands of damaged blocks, and a block hundreds of features.
        for errors in damaged.values():
            log.warning(
                "%d features of the null are replaced by others, the first since %s", len(errors), errors[0].reason
            )

    def for_feature(self, feature_index: int) -> list[Label]:
        return [label for f, label in self._labels.items() if f != feature_index][: self._n]


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

    No feature is taken from `features` before there is room for it; where that makes us wait, results come meanwhile.
    Give `null` where many calls are about one folder and recipe: learning it takes as long as a hundred features.
    """
    check_recipe(recipe, folder)
    folder.check_shared()
    null = null or NullLabels(folder, recipe)

    # With an LLM, replies arrive while evidence is read: what takes 16 ms in the event loop is 16 ms more in which a reply
    # that was paid for is not in the ledger.
    reader = None if llm is None else ThreadPoolExecutor(1, thread_name_prefix="evidence")

    async def one(feature_index: int) -> LabeledFeature:
        return await label_from(folder, feature_index, recipe, llm, null.for_feature(feature_index), reader)

    todo = _taken(features)
    running: set[asyncio.Task[LabeledFeature]] = set()
    taking: asyncio.Task[int | None] | None = None
    is_last = False
    try:
        while True:
            if taking is None and not is_last and len(running) < at_once:
                taking = asyncio.ensure_future(anext(todo, None))
            waited = running | ({taking} if taking is not None else set())
            if not waited:
                return
            done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            # Finished results are given before an error that came with them.
            for task in sorted(running & done, key=lambda t: (t.exception() is not None, t.get_name())):
                running.discard(task)
                yield task.result()
            if taking is not None and taking in done:
                feature, taking = taking.result(), None
                is_last = feature is None
                if feature is not None:
                    running.add(asyncio.ensure_future(one(feature)))
    finally:
        left = [*running, *([] if taking is None else [taking])]
        for unfinished in left:
            unfinished.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if reader is not None:
            reader.shutdown(wait=False, cancel_futures=True)


async def _taken(features: Iterable[int] | AsyncIterable[int]) -> AsyncIterator[int]:
    if isinstance(features, AsyncIterable):
        async for feature in features:
            yield feature
    else:
        for feature in features:
            yield feature
