"""Read evidence from disk one feature at a time: memory-mapped, and without torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import DamagedError, DamagedFeatureError, InputError
from labeler.evidence.checked import EvidenceFiles
from labeler.evidence.contexts import ContextsReader
from labeler.evidence.format import FIXED_POINT, SPLITS
from labeler.evidence.manifest import has_hashes, read_manifest
from labeler.records import Context, FeatureStatistics, Source, Split
from labeler.subject.vocabulary import Vocabulary

_LARGEST = float(np.finfo(np.float32).max)
_FRACTIONS = 1 << 16  # kept of documents: those of the RANDOM windows are asked for with every feature
KINDS = tuple((source, split) for source in (Source.TOP, Source.SAMPLED) for split in SPLITS)
BY_OTHERS = "by_others"  # in the manifest of evidence that others have gathered


@dataclass(frozen=True)
class Windows:
    """Some windows and one feature's activations in them, as arrays; rows are padded to the window's full width."""

    position: np.ndarray  # [n] of the first token
    length: np.ndarray  # [n] tokens in the window
    token_ids: np.ndarray  # [n, window] -1 beyond the length
    activations: np.ndarray  # [n, window] float32, raw SAE units, 0 where silent

    def __len__(self) -> int:
        return len(self.position)

    @cached_property
    def peak(self) -> np.ndarray:
        return np.asarray(self.activations.max(axis=1, initial=0.0))

    def take(self, chosen: Sequence[int] | np.ndarray) -> Windows:
        rows = np.asarray(chosen, dtype=np.int64)
        return Windows(self.position[rows], self.length[rows], self.token_ids[rows], self.activations[rows])


class EvidenceFolder:
    """One gathered SAE. Opening it maps files; reading a feature touches only that feature's pages."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.window_tokens = int(self.manifest["config"]["window_tokens"])
        self.n_features = int(self.manifest["sae"]["n_features"])
        self.files = EvidenceFiles(self.folder, self.manifest)
        self.files.check_shapes(self.n_features, by_others=self.by_others)
        self.vocabulary = Vocabulary(self.folder, self.files.whole)
        self.corpus = self.files.corpus()
        self._contexts = {
            kind: ContextsReader(self.folder, array=partial(self._array_of_contexts, *kind)) for kind in KINDS
        }

    def _array_of_contexts(self, source: Source, split: Split, name: str) -> np.ndarray:
        return self.files.array(f"contexts/{source}_{split}.{name}.npy").values

    @property
    def hash(self) -> str:
        return str(self.manifest["hash"])

    @property
    def by_others(self) -> bool:
        """Return True if others gathered this evidence, and the folder holds what they show of it (evidence/given.py)."""
        return BY_OTHERS in self.manifest

    @property
    def is_checked(self) -> bool:
        """Return True if reads are compared with hashes; evidence of earlier versions has none."""
        return has_hashes(self.manifest)

    def check_shared(self) -> None:
        """Check everything that features share, before work on many of them. Raises DamagedError naming the file."""
        self.files.check_shared()

    @cached_property
    def n_windows(self) -> dict[Split, int]:
        return {split: int(self.manifest["splits"][split]["n_windows"]) for split in SPLITS}

    @property
    def n_firing_windows(self) -> np.ndarray:
        """Return [2, n_features] the number of windows in which each feature fires, by split; -1 where that is damaged."""
        return self._all_of("n_firing_windows", -1)

    @property
    def token_counts(self) -> np.ndarray:
        """Return [2, vocabulary] how often each token occurs in the corpus, by split."""
        return self.files.whole("token_counts.npy")

    @property
    def maxima(self) -> np.ndarray:
        """Return [n_features] the highest activation of each feature in the corpus; NaN where that is damaged."""
        return self._all_of("maximum", np.nan)

    @property
    def densities(self) -> np.ndarray:
        """Return [n_features] the share of tokens on which each feature fires; NaN where that is unknown or damaged."""
        if self.by_others:
            return self._all_of("density", np.nan)
        shares = self._all_of("n_firings", -1) / int(self.manifest["corpus"]["n_tokens"])
        return np.where((shares >= 0) & (shares <= 1), shares, np.nan)

    def _all_of(self, name: str, damaged: float) -> np.ndarray:
        """Return one statistic of all features, with another number where it cannot be read."""
        array = self.files.array(f"statistics.{name}.npy")
        lost = array.damaged_elements()
        return np.where(lost.reshape(array.values.shape), damaged, array.values) if lost.any() else array.values

    def document_fraction(self, document: int, salt: str) -> float:
        """Return a number in [0, 1) by a hash of the document's tokens, the same for two copies."""
        return self._fraction(document, salt)

    @cached_property
    def _fraction(self) -> Callable[[int, str], float]:
        def fraction(document: int, salt: str) -> float:
            low, high = (int(n) for n in self.corpus.document_starts[document : document + 2])
            ids = self.token_ids(low, high).astype("<u4")
            digest = hashlib.sha256(f"{salt}:".encode() + ids.tobytes()).digest()
            return int.from_bytes(digest[:6], "big") / (1 << 48)

        return lru_cache(_FRACTIONS)(fraction)

    def check(self, feature_index: int) -> int:
        if not 0 <= feature_index < self.n_features:
            raise InputError(
                f"feature {feature_index} is out of range: the SAE of {self.folder} has features 0 to {self.n_features - 1}"
            )
        return feature_index

    def statistics(self, feature_index: int) -> FeatureStatistics:
        """Return the statistics of a feature. Raises DamagedFeatureError."""
        f = self.check(feature_index)
        if self.by_others:
            return self._stated_statistics(f)
        n_tokens, n_windows = int(self.manifest["corpus"]["n_tokens"]), sum(self.n_windows.values())
        n_firings = int(self._statistic("n_firings", f, 0, n_tokens))
        total = int(self._statistic("activation_sum", f, 0, np.inf)) / FIXED_POINT
        windows = self.firing_windows(f)
        histogram = self.files.row("statistics.histogram.npy", f)
        if int(histogram.sum()) != n_firings:
            raise self._damaged("statistics.histogram", f, f"fires {int(histogram.sum())} times of {n_firings}")
        return FeatureStatistics(
            n_tokens=n_tokens,
            n_firings=n_firings,
            n_windows=n_windows,
            n_firing_windows=sum(windows),
            n_firing_windows_by_split=dict(zip(SPLITS, windows, strict=True)),
            n_windows_by_split=self.n_windows,
            mean=total / n_firings if n_firings else 0.0,
            max=float(self._statistic("maximum", f, 0, _LARGEST)),
            histogram=tuple(histogram.tolist()),
            n_firings_first=self._optional("n_firings_first", f, n_firings),
            n_firings_massive=self._optional("n_firings_massive", f, n_firings),
        )

    def _optional(self, name: str, f: int, most: int) -> int | None:
        """Return a count that evidence of earlier versions does not have."""
        return int(self._statistic(name, f, 0, most)) if self.files.has(f"statistics.{name}.npy") else None

    def _stated_statistics(self, f: int) -> FeatureStatistics:
        density, maximum = self._stated("density", f, 1.0), self._stated("maximum", f, _LARGEST)
        windows = dict(zip(SPLITS, self.firing_windows(f), strict=True))
        # A source that states a density of 0 for a feature, and shows no context of it, says that it is silent.
        silent = density == 0.0 and not any(windows.values())
        return FeatureStatistics(
            n_tokens=None,
            n_firings=0 if silent else None,
            n_windows=None,
            n_firing_windows=None,
            n_firing_windows_by_split=windows,
            n_windows_by_split=self.n_windows,
            mean=None,
            max=maximum,
            histogram=(),
            stated_density=density,
        )

    def statistics_or_unknown(self, feature_index: int) -> FeatureStatistics:
        """Return the statistics of a feature; all unknown where they are damaged."""
        try:
            return self.statistics(feature_index)
        except DamagedError:
            return FeatureStatistics(
                None, None, None, None, dict.fromkeys(SPLITS, 0), self.n_windows, mean=None, max=None, histogram=()
            )

    def firing_windows(self, feature_index: int) -> list[int]:
        """Count the windows of each split in which the feature fires. Raises DamagedFeatureError."""
        windows = [
            int(self.files.element("statistics.n_firing_windows.npy", i * self.n_features + feature_index))
            for i in range(len(SPLITS))
        ]
        if any(not 0 <= n <= self.n_windows[split] for n, split in zip(windows, SPLITS, strict=True)):
            raise self._damaged("statistics.n_firing_windows", feature_index, f"fires in {windows} windows")
        return windows

    def _statistic(self, name: str, f: int, low: float, high: float) -> Any:
        value = self.files.element(f"statistics.{name}.npy", f)
        if not low <= value <= high:  # which NaN is not either
            raise self._damaged(f"statistics.{name}", f, f"has the value {value}")
        return value

    def _stated(self, name: str, f: int, most: float) -> float | None:
        value = float(self.files.element(f"statistics.{name}.npy", f))
        return None if math.isnan(value) else float(self._statistic(name, f, -most, most))

    def _damaged(self, name: str, f: int, what: str) -> DamagedFeatureError:
        return DamagedFeatureError(self.folder, f"{name}.npy", f"feature {f} {what}, which cannot be")

    def windows(self, feature_index: int, source: Source, split: Split) -> Windows:
        """Return the gathered windows of one feature: TOP by falling peak, SAMPLED in random order, RANDOM by position.

        Raises DamagedFeatureError where this feature's own data are damaged, DamagedError where shared data are.
        """
        f = self.check(feature_index)
        if source is Source.RANDOM:
            return self._random_windows(f, split)
        name = f"contexts/{source}_{split}"
        self._check_range(f, f"{name}.feature_starts", ("start", "n_entries"))
        self._check_range(f, f"{name}.entry_starts", ("offset", "value"))
        contexts = self._contexts[source, split].features(f, f + 1)
        if int(contexts.n_entries.sum()) != len(contexts.offset):
            raise self._damaged(f"{name}.n_entries", f, "has windows of more or fewer firings than it has firings")
        if _outside(contexts.start, 0, self.corpus.n_tokens):
            raise self._damaged(f"{name}.start", f, "has a window outside the corpus")
        position, rows = contexts.start.astype(np.int64), np.repeat(np.arange(len(contexts)), contexts.n_entries)
        length, token_ids = self._tokens(position, DamagedFeatureError)
        activations = np.zeros(token_ids.shape, dtype=np.float32)
        activations[rows, self._offsets(name, f, contexts.offset, length[rows])] = self._values(name, f, contexts.value)
        return Windows(position, length, token_ids, activations)

    def _check_range(self, f: int, starts: str, arrays: Sequence[str]) -> tuple[int, int]:
        """Return the range of this feature's elements, once they are known to be as they were written."""
        edges = self.files.array(f"{starts}.npy")
        edges.check(f, f + 2, DamagedError)
        low, high = (int(n) for n in edges.values[f : f + 2])
        for name in arrays:
            array = self.files.array(f"{starts.rpartition('.')[0]}.{name}.npy")
            if not 0 <= low <= high <= array.values.size:
                raise self._damaged(starts, f, f"begins at {low} and ends at {high} of {array.values.size}")
            array.check(low, high, DamagedFeatureError)
        return low, high

    def _offsets(self, name: str, f: int, offset: np.ndarray, length: np.ndarray) -> np.ndarray:
        if len(offset) and not bool(((offset >= 0) & (offset < length)).all()):
            raise self._damaged(f"{name}.offset", f, "fires outside a window")
        return offset

    def _values(self, name: str, f: int, value: np.ndarray) -> np.ndarray:
        if not bool(np.isfinite(value).all()):
            raise self._damaged(f"{name}.value", f, "has an activation that is no finite number")
        return value

    def _random_windows(self, f: int, split: Split) -> Windows:
        position, length, token_ids, row_of = self._random_pool[split]
        low, high = self._check_range(f, "random.feature_starts", ("window", "offset", "value"))
        window, offset, value = (
            self.files.array(f"random.{name}.npy").values[low:high] for name in ("window", "offset", "value")
        )
        if _outside(window, 0, len(row_of)):
            raise self._damaged("random.window", f, "fires in a window that is not there")
        row = row_of[window]
        here = row >= 0
        activations = np.zeros(token_ids.shape, dtype=np.float32)
        places = self._offsets("random", f, offset[here], length[row[here]])
        activations[row[here], places] = self._values("random", f, value[here])
        return Windows(position, length, token_ids, activations)

    @cached_property
    def _random_pool(self) -> dict[Split, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Read positions, lengths and tokens of the RANDOM windows by split, once; and the row of each pool index."""
        held_out = np.asarray(self.files.whole("random.held_out.npy"))
        positions = np.asarray(self.files.whole("random.position.npy"))
        if _outside(positions, 0, self.corpus.n_tokens):
            raise DamagedError(self.folder, "random.position.npy", "it has a window outside the corpus")
        pool = {}
        for i, split in enumerate(SPLITS):
            members = np.flatnonzero(held_out == bool(i))
            position = positions[members].astype(np.int64)
            length, token_ids = self._tokens(position, DamagedError)
            row_of = np.full(len(held_out), -1)
            row_of[members] = np.arange(len(members))
            pool[split] = (position, length, token_ids, row_of)
        return pool

    def token_ids(self, low: int, high: int) -> np.ndarray:
        """Return the tokens of the corpus from `low` to before `high`. Raises DamagedError."""
        self.files.array("corpus/tokens.npy").check(low, min(high, self.corpus.n_tokens), DamagedError)
        return np.asarray(self.corpus.tokens[low:high])

    def _tokens(self, position: np.ndarray, error: type[DamagedError]) -> tuple[np.ndarray, np.ndarray]:
        corpus = self.corpus
        end = np.asarray(corpus.sequence_starts)[corpus.sequence_of(position) + 1] if len(position) else position
        length = np.minimum(self.window_tokens, end - position)
        self.files.array("corpus/tokens.npy").check_at(position, position + length, DamagedError)
        places = position[:, None] + np.arange(self.window_tokens)
        inside = places < (position + length)[:, None]
        ids = np.asarray(corpus.tokens[np.minimum(places, corpus.n_tokens - 1)], dtype=np.int64)
        if _outside(ids[inside], 0, len(self.vocabulary)):
            raise error(self.folder, "corpus/tokens.npy", "it has a token that is not in the vocabulary")
        return length, np.where(inside, ids, -1)

    def contexts(self, windows: Windows, source: Source, split: Split) -> tuple[Context, ...]:
        """Return the windows as records, with their tokens as text."""
        documents = self.corpus.document_of(windows.position)
        return tuple(self.context(windows, row, source, split, int(document)) for row, document in enumerate(documents))

    def context(
        self,
        windows: Windows,
        row: int,
        source: Source,
        split: Split,
        document: int,
        weight: float | None = None,
        stratum: int | None = None,
    ) -> Context:
        n = int(windows.length[row])
        ids = windows.token_ids[row, :n].tolist()
        return Context(
            token_start=int(windows.position[row]),
            document=document,
            split=split,
            source=source,
            token_ids=tuple(ids),
            tokens=tuple(self.vocabulary.text(i) for i in ids),
            activations=tuple(windows.activations[row, :n].tolist()),
            weight=weight,
            stratum=stratum,
        )


def _outside(values: np.ndarray, low: int, end: int) -> bool:
    return len(values) > 0 and not (low <= int(values.min()) and int(values.max()) < end)
