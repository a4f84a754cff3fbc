"""Keep the best contexts of each feature in bounded memory, and merge them in any order.

A reservoir keeps, for each feature, the `k` contexts of lowest rank. The rank is a pure function of the context. For
TOP it is the peak activation, highest first. For SAMPLED it is a seeded hash of (window, feature), which makes the kept
contexts a uniform sample without replacement. Taking the k lowest of a set is associative and commutative, so shards,
spills and checkpoints all merge to the same contexts, byte for byte.

Features are held in blocks: compaction copies one block at a time, and a spill writes block after block.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.evidence.ragged import boundaries, ranges, starts_of
from labeler.files import NpyWriter, map_npy, save_npy

BLOCK_FEATURES = 512
_RANK_BITS = 48  # a feature within its block takes the 16 bits above
_NO_LIMIT = np.uint64((1 << _RANK_BITS) - 1)


@dataclass(frozen=True)
class Contexts:
    """Contexts of many features as flat arrays; sparse activations, since most tokens of a window are silent."""

    feature: np.ndarray  # [n] int32
    rank: np.ndarray  # [n] uint64 below 2**48; lower is better
    start: np.ndarray  # [n] position of the window's first token in the corpus
    n_entries: np.ndarray  # [n] uint8, firing tokens in the window
    offset: np.ndarray  # [entries] uint8, which token of the window
    value: np.ndarray  # [entries] float32, its activation

    def __len__(self) -> int:
        return len(self.feature)

    @property
    def n_bytes(self) -> int:
        return sum(a.nbytes for a in (self.feature, self.rank, self.start, self.n_entries, self.offset, self.value))

    def take(self, order: np.ndarray) -> Contexts:
        first = starts_of(self.n_entries)[:-1]
        entries = ranges(first[order], self.n_entries[order].astype(np.int64))
        return Contexts(
            self.feature[order],
            self.rank[order],
            self.start[order],
            self.n_entries[order],
            self.offset[entries],
            self.value[entries],
        )

    def slice(self, low: int, high: int, entry_low: int, entry_high: int) -> Contexts:
        return Contexts(
            self.feature[low:high],
            self.rank[low:high],
            self.start[low:high],
            self.n_entries[low:high],
            self.offset[entry_low:entry_high],
            self.value[entry_low:entry_high],
        )


def concatenate(parts: Sequence[Contexts]) -> Contexts:
    if len(parts) == 1:
        return parts[0]
    return Contexts(
        np.concatenate([p.feature for p in parts]),
        np.concatenate([p.rank for p in parts]),
        np.concatenate([p.start for p in parts]),
        np.concatenate([p.n_entries for p in parts]),
        np.concatenate([p.offset for p in parts]),
        np.concatenate([p.value for p in parts]),
    )


def keep_best(contexts: Contexts, k: int, first_feature: int, n_sorted: int = 0) -> Contexts:
    """Return the `k` contexts of lowest rank of each feature, sorted by (feature, rank, start).

    The first `n_sorted` of the given ones are in this order already.
    """
    local = (contexts.feature - first_feature).astype(np.uint64)
    key = (local << np.uint64(_RANK_BITS)) | contexts.rank
    order = _argsort_with_ties(key, contexts.start, n_sorted)
    first = boundaries(contexts.feature[order])
    place = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    return contexts.take(order[place < k])


def _argsort_with_ties(key: np.ndarray, start: np.ndarray, n_sorted: int) -> np.ndarray:
    # numpy's default sort of 64-bit keys is several times faster than a lexsort over both arrays, but not stable; equal
    # keys (copies of one text) are put in order of position afterwards.
    order = n_sorted + np.argsort(key[n_sorted:])
    if n_sorted:
        # What is in order takes the places that the others leave: sorting it anew would cost several times the merge.
        places = np.searchsorted(key[:n_sorted], key[order]) + np.arange(len(order))
        is_old = np.ones(len(key), dtype=bool)
        is_old[places] = False
        merged = np.empty(len(key), dtype=np.int64)
        merged[places], merged[is_old] = order, np.arange(n_sorted)
        order = merged
    ordered = key[order]
    same_as_next = ordered[1:] == ordered[:-1]
    if same_as_next.any():
        tied = np.flatnonzero(np.append(same_as_next, False) | np.append(False, same_as_next))
        members = order[tied]
        order[tied] = members[np.lexsort((start[members], key[members]))]
    return order


class Reservoir:
    """Keeps the `k` best contexts of each feature; `limit` is the rank that a new one must not exceed."""

    def __init__(self, n_features: int, k: int) -> None:
        self.n_features, self.k = n_features, k
        self.limit = np.full(n_features, _NO_LIMIT, dtype=np.uint64)
        self._n_blocks = -(-n_features // BLOCK_FEATURES)
        self._kept: list[Contexts | None] = [None] * self._n_blocks
        self._pending: list[list[Contexts]] = [[] for _ in range(self._n_blocks)]
        self._n_pending = [0] * self._n_blocks
        self.n_bytes = 0  # of all contexts held

    def offer(self, contexts: Contexts) -> None:
        """Take contexts sorted by feature. Contexts above the limit may be offered, and cost only time."""
        if len(contexts) == 0:
            return
        self.n_bytes += contexts.n_bytes
        edges = np.arange(self._n_blocks + 1) * BLOCK_FEATURES
        cuts = np.searchsorted(contexts.feature, edges)
        entry_starts = starts_of(contexts.n_entries)
        for block in np.flatnonzero(np.diff(cuts)):
            low, high = int(cuts[block]), int(cuts[block + 1])
            self._pending[block].append(contexts.slice(low, high, int(entry_starts[low]), int(entry_starts[high])))
            self._n_pending[block] += high - low
            kept = self._kept[block]
            if self._n_pending[block] > max(8 * BLOCK_FEATURES, (len(kept) if kept else 0) // 2):
                self._compact(int(block))

    def _compact(self, block: int) -> None:
        parts = [p for p in (self._kept[block], *self._pending[block]) if p is not None]
        if not parts or (len(parts) == 1 and parts[0] is self._kept[block]):
            return
        before = self._kept[block]
        n_sorted = 0 if before is None else len(before)
        kept = keep_best(concatenate(parts), self.k, block * BLOCK_FEATURES, n_sorted)
        self._kept[block], self._pending[block], self._n_pending[block] = kept, [], 0
        self.n_bytes += kept.n_bytes - sum(p.n_bytes for p in parts)
        self.tighten(kept)

    def tighten(self, best: Contexts) -> None:
        """Lower the limits of the features of which `best` holds `k` contexts; `best` is sorted by feature, then rank."""
        first = boundaries(best.feature)
        full = first[np.diff(np.append(first, len(best))) == self.k]
        worst = full + self.k - 1
        self.limit[best.feature[worst]] = np.minimum(self.limit[best.feature[worst]], best.rank[worst])

    def drain(self) -> Iterator[Contexts]:
        """Yield the kept contexts, block after block, and forget them. The limits stay, since they still hold."""
        for block in range(self._n_blocks):
            self._compact(block)
            kept, self._kept[block] = self._kept[block], None
            if kept is not None:
                self.n_bytes -= kept.n_bytes
                yield kept


class ContextsWriter:
    """Contexts on disk, sorted by feature: `<path>.<array>.npy`."""

    def __init__(self, path: Path, n_features: int, position_dtype: np.dtype, *, with_rank: bool) -> None:
        self._path = path
        self._counts = np.zeros(n_features, dtype=np.int64)
        self._entry_counts = np.zeros(n_features, dtype=np.int64)
        arrays: dict[str, Any] = {
            "start": position_dtype,
            "n_entries": np.uint8,
            "offset": np.uint8,
            "value": np.float32,
        }
        if with_rank:
            arrays["rank"] = np.uint64
        self._files = {name: NpyWriter(_file(path, name), dtype) for name, dtype in arrays.items()}

    def append(self, contexts: Contexts) -> None:
        for name, file in self._files.items():
            file.append(getattr(contexts, name))
        np.add.at(self._counts, contexts.feature, 1)
        np.add.at(self._entry_counts, contexts.feature, contexts.n_entries.astype(np.int64))

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        for name, counts in (("feature_starts", self._counts), ("entry_starts", self._entry_counts)):
            save_npy(_file(self._path, name), starts_of(counts))


class ContextsReader:
    """Memory-mapped contexts; reading one feature touches only its own pages. `array` maps one by its name."""

    def __init__(
        self, path: Path, *, with_rank: bool = False, array: Callable[[str], np.ndarray] | None = None
    ) -> None:
        array = array or (lambda name: map_npy(_file(path, name)))
        self.feature_starts, self.entry_starts = array("feature_starts"), array("entry_starts")
        self.start, self.n_entries = array("start"), array("n_entries")
        self.offset, self.value = array("offset"), array("value")
        self.rank = array("rank") if with_rank else None

    def forget_pages(self) -> None:
        """Release the pages read so far, which count as this process's memory; the next read brings them back."""
        for array in (self.start, self.n_entries, self.offset, self.value, self.rank):
            if isinstance(array, np.memmap) and hasattr(mmap, "MADV_DONTNEED"):
                array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]

    def features(self, low: int, high: int) -> Contexts:
        """Return all contexts of features low..high-1."""
        a, b = int(self.feature_starts[low]), int(self.feature_starts[high])
        ea, eb = int(self.entry_starts[low]), int(self.entry_starts[high])
        counts = np.diff(self.feature_starts[low : high + 1])
        return Contexts(
            np.repeat(np.arange(low, high, dtype=np.int32), counts),
            np.asarray(self.rank[a:b]) if self.rank is not None else np.zeros(b - a, dtype=np.uint64),
            np.asarray(self.start[a:b]),
            np.asarray(self.n_entries[a:b]),
            np.asarray(self.offset[ea:eb]),
            np.asarray(self.value[ea:eb]),
        )


def best_of_runs(runs: Sequence[ContextsReader], k: int, n_features: int) -> Iterator[Contexts]:
    """Yield the `k` best contexts of each feature over several runs, a block of features in memory at a time."""
    for low in range(0, n_features, BLOCK_FEATURES):
        high = min(low + BLOCK_FEATURES, n_features)
        parts = [c for c in (run.features(low, high) for run in runs) if len(c)]
        if parts:
            yield keep_best(concatenate(parts), k, low)
        for run in runs:
            run.forget_pages()


def _file(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}.{name}.npy")
