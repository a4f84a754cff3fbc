"""Write the arrays of evidence that others have gathered (evidence/given.py) in the layout of an evidence folder."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.evidence.contexts import BLOCK_FEATURES, Contexts, ContextsWriter
from labeler.evidence.directions import N_TOKENS
from labeler.evidence.ragged import ranges, starts_of
from labeler.files import NpyWriter, map_npy, save_npy, write_json
from labeler.records import Source, Split

_BEFORE_PEAK = 0.75  # of a window that is cut out of a longer context


@dataclass(frozen=True)
class GivenFacts:
    """The facts that the source states about one feature."""

    feature_index: int
    density: float | None
    maximum: float | None
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()
    logits: tuple[tuple[float, int], ...] = ()  # (logit at the middle of a bin, tokens in it), by rising logit


@dataclass(frozen=True)
class Shown:
    """The contexts that the source shows, one entry each, in the order in which they came."""

    feature: np.ndarray
    is_top: np.ndarray
    peak: np.ndarray
    peak_at: np.ndarray
    length: np.ndarray
    n_entries: np.ndarray


class Facts:
    """Facts about features, kept on disk in the order in which they come, and then sorted by feature."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        self._folder = folder
        self._feature, self._density, self._maximum = array("q"), array("d"), array("d")
        self._tokens = files.enter_context(NpyWriter(folder / "given.tokens.npy", np.int32))
        self._logits = files.enter_context(NpyWriter(folder / "given.logits.npy", np.float32))
        self._bins = files.enter_context(NpyWriter(folder / "given.bins.npy", np.uint32))
        self._range = files.enter_context(NpyWriter(folder / "given.range.npy", np.float32))
        self._n_bins: int | None = None
        self.last = -1

    def add(self, facts: GivenFacts, id_of: Callable[[str], int]) -> None:
        self._feature.append(facts.feature_index)
        self.last = max(self.last, facts.feature_index)
        for column, value in ((self._density, facts.density), (self._maximum, facts.maximum)):
            column.append(np.nan if value is None else value)
        ids, logits = np.full(2 * N_TOKENS, -1), np.zeros(2 * N_TOKENS)
        for begin, side in ((0, facts.promoted), (N_TOKENS, facts.suppressed)):
            for place, (token, logit) in enumerate(side[:N_TOKENS], start=begin):
                ids[place], logits[place] = id_of(token), logit
        self._tokens.append(ids)
        self._logits.append(logits)
        self._add_histogram(facts.logits)

    def _add_histogram(self, logits: tuple[tuple[float, int], ...]) -> None:
        if self._n_bins is None and logits:
            self._n_bins = len(logits)
        known = len(logits) > 1 and len(logits) == self._n_bins
        width = (logits[-1][0] - logits[0][0]) / (len(logits) - 1) if known else 0.0
        edges = (logits[0][0] - width / 2, logits[-1][0] + width / 2) if known else (np.nan, np.nan)
        self._range.append(np.array(edges))
        if known:
            self._bins.append(np.array([n for _, n in logits]))

    def finish(self, n_features: int, firing: np.ndarray, highest: np.ndarray) -> np.ndarray:
        """Write all facts by feature, and return [n_features] the densities."""
        feature = np.array(self._feature, dtype=np.int64)
        density, maximum = np.full(n_features, np.nan), highest.copy()
        density[feature] = self._density
        # A feature that fires has a share of 0 only by the source's rounding or default.
        density[(density == 0) & (firing.sum(axis=0) > 0)] = np.nan
        stated = np.full(n_features, np.nan)
        stated[feature] = self._maximum
        maximum = np.fmax(maximum, np.where(stated > 0, stated, np.nan))
        save_npy(self._folder / "statistics.density.npy", density)
        save_npy(self._folder / "statistics.maximum.npy", maximum.astype(np.float32))
        save_npy(self._folder / "statistics.n_firing_windows.npy", firing)
        self._write_output(n_features, feature)
        return density

    def _write_output(self, n_features: int, feature: np.ndarray) -> None:
        ranges_given = map_npy(self._folder / "given.range.npy").reshape(-1, 2)
        known = feature[~np.isnan(ranges_given[:, 0])]
        tables: list[tuple[str, str, int, Any, np.ndarray]] = [
            ("range", "range", 2, np.nan, feature),
            ("histogram", "bins", self._n_bins or 1, 0, known),
            ("logits", "logits", 2 * N_TOKENS, 0, feature),
            ("tokens", "tokens", 2 * N_TOKENS, -1, feature),
        ]
        some = bool((map_npy(self._folder / "given.tokens.npy") >= 0).any()) or len(known) > 0
        for name, given, width, absent, rows in tables:
            path = self._folder / f"given.{given}.npy"
            if some:
                array_of = map_npy(path)
                by_feature = np.lib.format.open_memmap(
                    self._folder / f"output.{name}.npy", mode="w+", dtype=array_of.dtype, shape=(n_features, width)
                )
                by_feature[:] = absent
                by_feature[rows] = array_of.reshape(-1, width)
                by_feature.flush()
            path.unlink()


def highest(shown: Shown, n_features: int) -> np.ndarray:
    """Return [n_features] the highest activation that is shown; NaN where no context is."""
    highest = np.full(n_features, -np.inf)
    np.maximum.at(highest, shown.feature, shown.peak)
    return np.where(np.isneginf(highest), np.nan, highest)


def write_corpus(folder: Path, spec: str, shown: Shown, fingerprint: str) -> None:
    starts = starts_of(shown.length)
    for name in ("document_starts", "sequence_starts"):
        save_npy(folder / "corpus" / f"{name}.npy", starts)
    save_npy(folder / "corpus" / "held_out.npy", shown.is_top == 0)
    write_json(folder / "corpus" / "corpus.json", {"fingerprint": fingerprint, "spec": spec})


def write_contexts(folder: Path, shown: Shown, window: int, n_features: int) -> np.ndarray:
    """Write the contexts by feature, TOP ones by falling peak; return [2, n_features] how many of each split fire."""
    firing = np.zeros((2, n_features), dtype=np.int64)
    given = {
        (Source.TOP, Split.EXPLAIN): shown.is_top != 0,
        (Source.SAMPLED, Split.HELD_OUT): shown.is_top == 0,
    }
    dtype = np.dtype(np.uint64)
    for source in (Source.TOP, Source.SAMPLED):
        for at, split in enumerate((Split.EXPLAIN, Split.HELD_OUT)):
            writer = ContextsWriter(folder / "contexts" / f"{source}_{split}", n_features, dtype, with_rank=False)
            if (source, split) in given:
                chosen = np.flatnonzero(given[source, split])
                rank = -shown.peak[chosen] if source is Source.TOP else np.zeros(len(chosen))
                _append(writer, folder, shown, chosen[np.lexsort((rank, shown.feature[chosen]))], window)
                np.add.at(firing[at], shown.feature[chosen], shown.peak[chosen] > 0)
            writer.close()
    for name in ("offset", "value"):
        (folder / f"{name}.npy").unlink()
    return firing


def _append(writer: ContextsWriter, folder: Path, shown: Shown, order: np.ndarray, window: int) -> None:
    """Append contexts with one block of features in memory at a time."""
    offset, value = map_npy(folder / "offset.npy"), map_npy(folder / "value.npy")
    starts, entries = starts_of(shown.length)[:-1], starts_of(shown.n_entries)[:-1]
    spare = np.maximum(shown.length - window, 0)
    shift = np.clip(shown.peak_at - int(_BEFORE_PEAK * window), 0, spare)
    blocks = shown.feature[order] // BLOCK_FEATURES
    for block in np.split(order, np.flatnonzero(np.diff(blocks)) + 1) if len(order) else ():
        places = ranges(entries[block], shown.n_entries[block])
        context = np.repeat(np.arange(len(block)), shown.n_entries[block])
        at = offset[places].astype(np.int64) - shift[block][context]
        inside = (at >= 0) & (at < window)
        writer.append(
            Contexts(
                shown.feature[block].astype(np.int32),
                np.zeros(len(block), np.uint64),
                starts[block] + shift[block],
                np.bincount(context[inside], minlength=len(block)).astype(np.uint8),
                at[inside].astype(np.uint8),
                value[places][inside],
            )
        )


def write_random(folder: Path, n_features: int) -> None:
    """Write an empty RANDOM file: this evidence has no random windows."""
    empty = {"position": np.int64, "held_out": np.bool_, "window": np.int64, "offset": np.uint8, "value": np.float32}
    for name, kind in empty.items():
        save_npy(folder / f"random.{name}.npy", np.zeros(0, dtype=kind))
    save_npy(folder / "random.feature_starts.npy", np.zeros(n_features + 1, dtype=np.int64))


def write_token_counts(folder: Path, shown: Shown, n_vocabulary: int) -> None:
    counts = np.zeros((2, n_vocabulary), dtype=np.int64)
    tokens, starts = map_npy(folder / "corpus" / "tokens.npy"), starts_of(shown.length)
    held_out = np.asarray(shown.is_top == 0)
    step = 1 << 14  # contexts at a time
    for low in range(0, len(shown.length), step):
        high = min(low + step, len(shown.length))
        split = np.repeat(held_out[low:high].astype(np.int64), shown.length[low:high])
        np.add.at(counts, (split, tokens[int(starts[low]) : int(starts[high])].astype(np.int64)), 1)
    save_npy(folder / "token_counts.npy", counts)
