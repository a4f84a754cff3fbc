"""Hold the state of the gathering pass: statistics, contexts and quality sums, all of which merge exactly.

Sums of activations are kept in fixed point (integers of 2**-20), because integer addition does not depend on its
order and floating-point addition does. One pass, four shards in any order, and a resumed run all give the same bytes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labeler.errors import FormatError
from labeler.evidence.batches import Batch, batches_of_chunk, n_chunks
from labeler.evidence.contexts import Contexts, Reservoir
from labeler.evidence.format import FIXED_POINT, SPLITS
from labeler.evidence.ragged import boundaries, ranges
from labeler.recipe import GatherConfig
from labeler.records import HISTOGRAM_EDGES, Source, Split
from labeler.subject.sequences import TokenizedCorpus

if TYPE_CHECKING:
    from torch import Tensor

N_BINS = len(HISTOGRAM_EDGES) + 1
_RANDOM_ARRAYS = ("feature", "window", "offset", "value")
_SQRT2_BITS = np.uint32(np.float32(np.sqrt(2.0)).view(np.uint32) & 0x7FFFFF)


@dataclass(frozen=True)
class Events:
    """The firings of one batch, sorted by feature and, within a feature, by token."""

    feature: np.ndarray  # [n] int32 or int64
    token: np.ndarray  # [n] index among the batch's tokens
    value: np.ndarray  # [n] float32, above 0


def sort_by_feature(token: np.ndarray, feature: np.ndarray, value: np.ndarray, n_features: int) -> Events:
    """Sort events by feature; the given ones are in order of token, and the sort is stable."""
    # numpy's stable sort of 16-bit keys is a radix sort, several times faster than one of wider keys.
    order = np.argsort(feature.astype(np.uint16), kind="stable")
    if n_features > 1 << 16:
        order = order[np.argsort((feature >> 16).astype(np.uint16)[order], kind="stable")]
    return Events(feature[order], token[order], value[order])


def histogram_bin(values: np.ndarray) -> np.ndarray:
    """Return the half-octave bin of each positive float32 (records.HISTOGRAM_EDGES), by integer arithmetic only."""
    bits = values.view(np.uint32)
    exponent = (bits >> np.uint32(23)).astype(np.int64) - 127
    half = (bits & np.uint32(0x7FFFFF)) >= _SQRT2_BITS
    return np.clip(2 * exponent + half + 21, 0, N_BINS - 1)


def window_hash(position: np.ndarray, salt: np.ndarray | int, seed: int) -> np.ndarray:
    """Return a 48-bit hash of (window, salt), uniform and independent over salts (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = position.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.asarray(salt).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        x += np.uint64((seed * 0x8CB92BA72F3D8DD7 + 0x2545F4914F6CDD1D) & (2**64 - 1))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x ^= x >> np.uint64(shift)
            x *= np.uint64(factor)
        x ^= x >> np.uint64(31)
    return x >> np.uint64(16)


@dataclass
class Statistics:
    """Exact counts for each feature; `+` of two shards is elementwise."""

    n_firings: np.ndarray  # [F] int64
    n_firing_windows: np.ndarray  # [2, F] int64, by split
    activation_sum: np.ndarray  # [F] int64, in units of 1 / FIXED_POINT
    maximum: np.ndarray  # [F] float32
    histogram: np.ndarray  # [F, N_BINS] uint32
    n_firings_first: np.ndarray  # [F] int64, on the first token of a sequence
    n_firings_massive: np.ndarray  # [F] int64, on massive tokens (sae/massive.py)

    @classmethod
    def empty(cls, n_features: int) -> Statistics:
        return cls(
            np.zeros(n_features, np.int64),
            np.zeros((2, n_features), np.int64),
            np.zeros(n_features, np.int64),
            np.zeros(n_features, np.float32),
            np.zeros((n_features, N_BINS), np.uint32),
            np.zeros(n_features, np.int64),
            np.zeros(n_features, np.int64),
        )

    def add(self, other: Statistics) -> None:
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            np.maximum(mine, theirs, out=mine) if f.name == "maximum" else np.add(mine, theirs, out=mine)

    def update(self, events: Events) -> None:
        if len(events.feature) == 0:
            return
        first = boundaries(events.feature)
        features = events.feature[first]
        fixed = np.rint(events.value.astype(np.float64) * FIXED_POINT).astype(np.int64)
        self.n_firings[features] += np.diff(np.append(first, len(events.feature)))
        self.activation_sum[features] += np.add.reduceat(fixed, first)
        self.maximum[features] = np.maximum(self.maximum[features], np.maximum.reduceat(events.value, first))
        flat = self.histogram.reshape(-1)
        np.add.at(flat, events.feature.astype(np.int64) * N_BINS + histogram_bin(events.value), np.uint32(1))

    def update_apart(self, events: Events, first: np.ndarray, massive: np.ndarray, n_tokens: int) -> None:
        """Count the firings on the first tokens of sequences and on massive ones, each given by their numbers."""
        for count, tokens in ((self.n_firings_first, first), (self.n_firings_massive, massive)):
            if len(tokens):
                here = np.zeros(n_tokens, dtype=bool)
                here[tokens] = True
                np.add.at(count, events.feature[here[events.token]], 1)


@dataclass
class Quality:
    """Sums for the SAE's L0 and explained variance, over all tokens and over the sampled chunks.

    Those of ordinary tokens leave out the massive ones (sae/massive.py).
    """

    n_tokens: int
    n_firings: int
    n_sampled: int  # tokens on which the reconstruction was computed
    squared_norm: int  # the following in units of 1 / FIXED_POINT
    squared_error: int
    hidden_sum: np.ndarray  # [d] int64
    n_massive: int  # of n_tokens
    n_sampled_ordinary: int
    squared_norm_ordinary: int
    squared_error_ordinary: int
    hidden_sum_ordinary: np.ndarray  # [d] int64

    @classmethod
    def empty(cls, d: int) -> Quality:
        return cls(0, 0, 0, 0, 0, np.zeros(d, np.int64), 0, 0, 0, 0, np.zeros(d, np.int64))

    def add(self, other: Quality) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def update(self, target: Tensor, reconstruction: Tensor, ordinary: Tensor) -> None:
        """Add `target` and `reconstruction` [tokens, d]: what the SAE should give and what it gives. `ordinary` [tokens]."""
        x, error = target.double(), (target - reconstruction).double()
        norm, squared, total = _fixed_sums(x, error)
        self.n_sampled += len(x)
        self.squared_norm += norm
        self.squared_error += squared
        self.hidden_sum += total
        if not bool(ordinary.all()):
            norm, squared, total = _fixed_sums(x[ordinary], error[ordinary])
        self.n_sampled_ordinary += int(ordinary.sum())
        self.squared_norm_ordinary += norm
        self.squared_error_ordinary += squared
        self.hidden_sum_ordinary += total

    def massive_share(self) -> float | None:
        """Return the share of tokens that are massive by what is read, or, of a transcoder, by what it should give."""
        if self.n_tokens == 0:
            return None
        read = self.n_massive / self.n_tokens
        return max(read, 1 - self.n_sampled_ordinary / self.n_sampled) if self.n_sampled and not read else read

    def fraction_unexplained(self, *, ordinary: bool = False) -> float | None:
        """Return FVU = sum |x - x_hat|^2 / sum |x - mean|^2; None before anything was reconstructed."""
        if ordinary:
            return _unexplained(
                self.n_sampled_ordinary,
                self.squared_norm_ordinary,
                self.squared_error_ordinary,
                self.hidden_sum_ordinary,
            )
        return _unexplained(self.n_sampled, self.squared_norm, self.squared_error, self.hidden_sum)


def _fixed_sums(x: Tensor, error: Tensor) -> tuple[int, int, np.ndarray]:
    norm, squared = (round(float(values.square().sum()) * FIXED_POINT) for values in (x, error))
    return norm, squared, np.rint(x.sum(0).cpu().numpy() * FIXED_POINT).astype(np.int64)


def _unexplained(n: int, squared_norm: int, squared_error: int, hidden_sum: np.ndarray) -> float | None:
    if n == 0:
        return None
    mean_norm = float((hidden_sum / FIXED_POINT / n).dot(hidden_sum / FIXED_POINT))
    total = squared_norm / FIXED_POINT - mean_norm
    return float(squared_error / FIXED_POINT / total) if total > 0 else None


class RandomWindows:
    """The windows that all features share as RANDOM contexts: known before the pass, from the corpus alone."""

    def __init__(self, positions: np.ndarray) -> None:
        self.positions = positions  # sorted
        self._found: list[tuple[np.ndarray, ...]] = []

    def update(self, batch: Batch, events: Events) -> None:
        place = np.searchsorted(self.positions, batch.window_positions)
        place[place == len(self.positions)] = 0
        here = self.positions[place] == batch.window_positions if len(self.positions) else np.zeros(0, bool)
        if not here.any():
            return
        window = batch.window_of_token[events.token]
        hits = np.flatnonzero(here[window])
        offset = events.token[hits] - batch.window_first_tokens[window[hits]]
        self._found.append(
            (
                events.feature[hits].astype(np.int32),
                place[window[hits]].astype(np.uint16),
                offset.astype(np.uint8),
                events.value[hits],
            )
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return (feature, window, offset, value), sorted by feature, then window, then offset."""
        if not self._found:
            return np.zeros(0, np.int32), np.zeros(0, np.uint16), np.zeros(0, np.uint8), np.zeros(0, np.float32)
        feature, window, offset, value = (np.concatenate(column) for column in zip(*self._found, strict=True))
        order = np.lexsort((offset, window, feature))
        self._found = [(feature[order], window[order], offset[order], value[order])]
        return self._found[0]

    def extend(self, arrays: Sequence[np.ndarray]) -> None:
        self._found.append(tuple(arrays))


KINDS: tuple[tuple[Source, Split], ...] = tuple(
    (source, split) for source in (Source.TOP, Source.SAMPLED) for split in SPLITS
)


def kind_name(source: Source, split: Split) -> str:
    return f"{source}_{split}"


class GatherState:
    """Everything that one shard of a gathering pass has seen, in memory bounded by the number of features."""

    def __init__(
        self, n_features: int, d: int, random_positions: np.ndarray, config: GatherConfig, dtype: np.dtype
    ) -> None:
        self.n_features, self.config, self.position_dtype = n_features, config, dtype
        self.statistics = Statistics.empty(n_features)
        self.quality = Quality.empty(d)
        self.random = RandomWindows(random_positions)
        self.reservoirs = {
            (source, split): Reservoir(n_features, (config.n_top if source is Source.TOP else config.n_sampled)[i])
            for source in (Source.TOP, Source.SAMPLED)
            for i, split in enumerate(SPLITS)
        }

    @property
    def n_bytes(self) -> int:
        return sum(r.n_bytes for r in self.reservoirs.values())

    def update(
        self,
        batch: Batch,
        token: np.ndarray,
        feature: np.ndarray,
        value: np.ndarray,
        *,
        n_read: int | None = None,
        massive: np.ndarray | None = None,
    ) -> None:
        """Take the firings of one batch, in order of token.

        `n_read` tokens were read (default: all of the batch), and the ones of these numbers are `massive` (default: none).
        """
        massive = np.zeros(0, np.int64) if massive is None else massive
        self.quality.n_tokens += batch.n_tokens if n_read is None else n_read
        self.quality.n_massive += len(massive)
        self.quality.n_firings += len(token)
        if len(token) == 0:
            return
        events = sort_by_feature(token, feature, value, self.n_features)
        self.statistics.update(events)
        self.statistics.update_apart(events, batch.first_tokens[:-1], massive, batch.n_tokens)
        self.random.update(batch, events)
        firing = FiringWindows.of(batch, events)
        flat = self.statistics.n_firing_windows.reshape(-1)
        np.add.at(flat, firing.held_out * self.n_features + firing.feature, 1)
        for i, split in enumerate(SPLITS):
            here = firing.held_out == i
            self._offer_sampled(batch, events, firing, here, split)
            self._offer_top(batch, events, firing, here, split)

    def _offer_sampled(
        self, batch: Batch, events: Events, firing: FiringWindows, here: np.ndarray, split: Split
    ) -> None:
        reservoir = self.reservoirs[Source.SAMPLED, split]
        chosen = np.flatnonzero(here)
        feature, position = firing.feature[chosen], batch.window_positions[firing.window[chosen]]
        rank = window_hash(position, feature, self.config.seed)
        passing = np.flatnonzero(rank <= reservoir.limit[feature])
        chosen = chosen[passing]
        entries = ranges(firing.first[chosen], firing.n_events[chosen])
        base = np.repeat(batch.window_first_tokens[firing.window[chosen]], firing.n_events[chosen])
        reservoir.offer(
            Contexts(
                feature[passing].astype(np.int32),
                rank[passing],
                position[passing].astype(self.position_dtype),
                firing.n_events[chosen].astype(np.uint8),
                (events.token[entries] - base).astype(np.uint8),
                events.value[entries],
            )
        )

    def _offer_top(self, batch: Batch, events: Events, firing: FiringWindows, here: np.ndarray, split: Split) -> None:
        # One candidate per sequence: a feature that fires all through a paragraph would otherwise fill its
        # evidence with copies of that paragraph.
        reservoir = self.reservoirs[Source.TOP, split]
        chosen = np.flatnonzero(here)
        if len(chosen) == 0:
            return
        n_sequences = len(batch.lengths)
        sequence = batch.sequence_of_window[firing.window[chosen]]
        first = boundaries(firing.feature[chosen].astype(np.int64) * n_sequences + sequence)
        peak = np.maximum.reduceat(firing.peak[chosen], first)
        feature = firing.feature[chosen[first]]
        # Equal peaks are ranked by hash: by position, the first documents would fill the evidence.
        tie = window_hash(batch.starts[sequence[first]], feature, self.config.seed) >> np.uint64(32)
        rank = (np.uint64(0xFFFFFFFF) - peak.view(np.uint32).astype(np.uint64)) << np.uint64(16) | tie
        passing = np.flatnonzero(rank <= reservoir.limit[feature])
        if len(passing) == 0:
            return
        last = np.append(first[1:], len(chosen)) - 1
        low = firing.first[chosen[first[passing]]]
        end = chosen[last[passing]]
        n_events = firing.first[end] + firing.n_events[end] - low
        start, n_entries, entries, offset = _around_peaks(
            batch, events, low, n_events, peak[passing], sequence[first[passing]]
        )
        reservoir.offer(
            Contexts(
                feature[passing].astype(np.int32),
                rank[passing],
                start.astype(self.position_dtype),
                n_entries.astype(np.uint8),
                offset.astype(np.uint8),
                events.value[entries],
            )
        )


@dataclass(frozen=True)
class FiringWindows:
    """The pairs (feature, window) of a batch in which the feature fires, sorted by feature, then window."""

    feature: np.ndarray
    window: np.ndarray  # index among the batch's windows
    first: np.ndarray  # the pair's first event
    n_events: np.ndarray
    peak: np.ndarray  # highest activation in the window
    held_out: np.ndarray  # int64, 0 or 1

    @classmethod
    def of(cls, batch: Batch, events: Events) -> FiringWindows:
        window = batch.window_of_token[events.token]
        first = boundaries(events.feature.astype(np.int64) * len(batch.window_first_tokens) + window)
        n_events = np.diff(np.append(first, len(window)))
        peak = np.maximum.reduceat(events.value, first)
        return cls(
            events.feature[first],
            window[first],
            first,
            n_events,
            peak,
            batch.window_held_out[window[first]].astype(np.int64),
        )


def _around_peaks(
    batch: Batch, events: Events, low: np.ndarray, n_events: np.ndarray, peak: np.ndarray, sequence: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Place windows around peaks: the peak sits at three quarters, and each window lies inside its sequence.

    For m (feature, sequence) pairs whose events are low .. low + n_events - 1, return
    (start position [m], entries in the window [m], their event indices, their offsets in the window).
    """
    rows = ranges(low, n_events)
    owner = np.repeat(np.arange(len(low)), n_events)
    token = events.token[rows]
    at_peak = np.flatnonzero(events.value[rows] == peak[owner])
    first_at_peak = at_peak[boundaries(owner[at_peak])]
    peak_token = token[first_at_peak]
    begin = batch.first_tokens[sequence]
    width = np.minimum(batch.window_tokens, batch.lengths[sequence])
    lead = batch.window_tokens * 3 // 4 - 1
    window_first = np.clip(peak_token - lead, begin, begin + batch.lengths[sequence] - width)
    offset = token - window_first[owner]
    inside = np.flatnonzero((offset >= 0) & (offset < width[owner]))
    n_entries = np.bincount(owner[inside], minlength=len(low))
    start = batch.starts[sequence] + (window_first - begin)
    return start, n_entries, rows[inside], offset[inside]


def save_arrays(path: Path, statistics: Statistics, quality: Quality, random: RandomWindows) -> None:
    """Save the small and dense part of a state in one file, which is loaded whole."""
    arrays: dict[str, Any] = {f"statistics_{f.name}": getattr(statistics, f.name) for f in fields(statistics)}
    # Sums of squares may pass 64 bits on long runs, so numbers are written as digits.
    for f in fields(quality):
        value = getattr(quality, f.name)
        arrays[f"quality_{f.name}"] = value if isinstance(value, np.ndarray) else np.array(str(value))
    arrays |= {f"random_{name}": a for name, a in zip(_RANDOM_ARRAYS, random.arrays(), strict=True)}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def load_arrays(path: Path, random: RandomWindows) -> tuple[Statistics, Quality]:
    """Load the file of `save_arrays`; the RANDOM windows go into `random`. Raises FormatError naming the file."""
    try:
        # Opened here, since numpy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if "statistics_n_firings_first" not in arrays and "statistics_n_firings" in arrays:
                raise FormatError(
                    f"{path}: an earlier version of labeler began this shard and counted less; remove {path.parent} and gather this "
                    "shard again"
                )
            statistics = Statistics(**{f.name: arrays[f"statistics_{f.name}"] for f in fields(Statistics)})
            sums: dict[str, Any] = {f.name: _number(arrays[f"quality_{f.name}"]) for f in fields(Quality)}
            quality = Quality(**sums)
            random.extend([arrays[f"random_{name}"] for name in _RANDOM_ARRAYS])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise FormatError(f"{path}: damaged ({error}); remove {path.parent} and gather this shard again") from error
    return statistics, quality


def _number(array: np.ndarray) -> int | np.ndarray:
    return int(str(array)) if array.dtype.kind == "U" else array


def random_positions(corpus: TokenizedCorpus, config: GatherConfig) -> np.ndarray:
    """Return sorted positions of the RANDOM windows: of each split, those of lowest seeded hash. Streams the corpus."""
    chosen = []
    for split, n in enumerate(config.n_random):
        best_rank, best = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        for chunk in range(n_chunks(corpus, config)):
            for batch in batches_of_chunk(corpus, chunk, config):
                positions = batch.window_positions[batch.window_held_out == bool(split)]
                rank = np.append(best_rank, window_hash(positions, 0, config.seed + 1))
                best = np.append(best, positions)
                keep = np.lexsort((best, rank))[:n]
                best_rank, best = rank[keep], best[keep]
        chosen.append(best)
    return np.sort(np.concatenate(chosen))
