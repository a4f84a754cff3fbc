"""Evidence on disk, read one feature at a time: memory-mapped, and without torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import FormatError, InputError, NotFoundError
from labeler.evidence.contexts import ContextsReader
from labeler.evidence.format import FIXED_POINT, HEAD, SPLITS
from labeler.files import map_npy, read_json
from labeler.records import Context, FeatureStatistics, Source, Split
from labeler.subject.sequences import open_tokenized
from labeler.subject.vocabulary import Vocabulary

_FRACTIONS = 1 << 16  # kept of documents: those of the RANDOM windows are asked for with every feature
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
        return self.activations.max(axis=1, initial=0.0)

    def take(self, chosen: Sequence[int] | np.ndarray) -> Windows:
        rows = np.asarray(chosen, dtype=np.int64)
        return Windows(self.position[rows], self.length[rows], self.token_ids[rows], self.activations[rows])


class EvidenceFolder:
    """One gathered SAE. Opening it maps files; reading a feature touches only that feature's pages."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        self.window_tokens = int(self.manifest["config"]["window_tokens"])
        self.n_features = int(self.manifest["sae"]["n_features"])
        self.vocabulary = Vocabulary(self.folder)
        self.corpus = open_tokenized(self.folder / "corpus")
        self._contexts = {
            (source, split): ContextsReader(self.folder / "contexts" / f"{source}_{split}")
            for source in (Source.TOP, Source.SAMPLED)
            for split in SPLITS
        }
        self._check_lengths()

    def _check_lengths(self) -> None:
        counted = "statistics.density" if self.by_others else "statistics.n_firings"
        for name, n in ((counted, self.n_features), ("random.feature_starts", self.n_features + 1)):
            if len(self._array(name)) != n:
                raise FormatError(f"{self.folder / name}.npy: expected {n} entries, found {len(self._array(name))}")
        for (source, split), reader in self._contexts.items():
            if int(reader.feature_starts[-1]) != len(reader.start) or int(reader.entry_starts[-1]) != len(reader.value):
                raise FormatError(f"{self.folder}: contexts/{source}_{split} is cut short; gather again")

    def _array(self, name: str) -> np.ndarray:
        # One mapping per file, made at its first use.
        cache: dict[str, np.ndarray] = self.__dict__.setdefault("_arrays", {})
        if name not in cache:
            cache[name] = map_npy(self.folder / f"{name}.npy")
        return cache[name]

    @property
    def hash(self) -> str:
        return str(self.manifest["hash"])

    @property
    def by_others(self) -> bool:
        """Whether others gathered it, and this is what they show of it (evidence/given.py)."""
        return BY_OTHERS in self.manifest

    @cached_property
    def n_windows(self) -> dict[Split, int]:
        return {split: int(self.manifest["splits"][split]["n_windows"]) for split in SPLITS}

    @property
    def n_firing_windows(self) -> np.ndarray:
        """[2, n_features] windows in which each feature fires, by split."""
        return self._array("statistics.n_firing_windows")

    @property
    def token_counts(self) -> np.ndarray:
        """[2, vocabulary] how often each token occurs in the corpus, by split."""
        return self._array("token_counts")

    @property
    def densities(self) -> np.ndarray:
        """[n_features] share of tokens on which each feature fires; NaN where nobody says."""
        if self.by_others:
            return self._array("statistics.density")
        return np.asarray(self._array("statistics.n_firings") / max(int(self.manifest["corpus"]["n_tokens"]), 1))

    def document_fraction(self, document: int, salt: str) -> float:
        """A number in [0, 1) by a hash of the document's tokens: two copies of one document have the same."""
        return self._fraction(document, salt)

    @cached_property
    def _fraction(self) -> Callable[[int, str], float]:
        def fraction(document: int, salt: str) -> float:
            low, high = (int(n) for n in self.corpus.document_starts[document : document + 2])
            ids = np.asarray(self.corpus.tokens[low:high]).astype("<u4")
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
        f = self.check(feature_index)
        if self.by_others:
            return self._stated_statistics(f)
        n_firings = int(self._array("statistics.n_firings")[f])
        total = int(self._array("statistics.activation_sum")[f]) / FIXED_POINT
        windows = self.n_firing_windows[:, f]
        return FeatureStatistics(
            n_tokens=int(self.manifest["corpus"]["n_tokens"]),
            n_firings=n_firings,
            n_windows=sum(self.n_windows.values()),
            n_firing_windows=int(windows.sum()),
            n_firing_windows_by_split={split: int(windows[i]) for i, split in enumerate(SPLITS)},
            n_windows_by_split=self.n_windows,
            mean=total / n_firings if n_firings else 0.0,
            max=float(self._array("statistics.maximum")[f]),
            histogram=tuple(self._array("statistics.histogram")[f].tolist()),
        )

    def _stated_statistics(self, f: int) -> FeatureStatistics:
        density, maximum = (float(self._array(f"statistics.{name}")[f]) for name in ("density", "maximum"))
        windows = {split: int(n) for split, n in zip(SPLITS, self.n_firing_windows[:, f], strict=True)}
        # Whoever says that a feature fires on no token, and shows no context of it, says that it is silent.
        silent = density == 0.0 and not any(windows.values())
        return FeatureStatistics(
            n_tokens=None, n_firings=0 if silent else None, n_windows=None, n_firing_windows=None,
            n_firing_windows_by_split=windows, n_windows_by_split=self.n_windows, mean=None,
            max=None if math.isnan(maximum) else maximum, histogram=(),
            stated_density=None if math.isnan(density) else density,
        )  # fmt: skip

    def windows(self, feature_index: int, source: Source, split: Split) -> Windows:
        """The gathered windows of one feature: TOP by falling peak; SAMPLED in random order; RANDOM by position."""
        f = self.check(feature_index)
        if source is Source.RANDOM:
            return self._random_windows(f, split)
        contexts = self._contexts[source, split].features(f, f + 1)
        rows = np.repeat(np.arange(len(contexts)), contexts.n_entries)
        return self._windows(contexts.start.astype(np.int64), rows, contexts.offset, contexts.value)

    def _random_windows(self, f: int, split: Split) -> Windows:
        position, length, token_ids, row_of = self._random_pool[split]
        low, high = (int(n) for n in self._array("random.feature_starts")[f : f + 2])
        row = row_of[self._array("random.window")[low:high]]
        here = row >= 0
        activations = np.zeros(token_ids.shape, dtype=np.float32)
        activations[row[here], self._array("random.offset")[low:high][here]] = self._array("random.value")[low:high][
            here
        ]
        return Windows(position, length, token_ids, activations)

    @cached_property
    def _random_pool(self) -> dict[Split, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Positions, lengths and tokens of the RANDOM windows by split, read once; and the row of each pool index."""
        held_out = np.asarray(self._array("random.held_out"))
        pool = {}
        for i, split in enumerate(SPLITS):
            members = np.flatnonzero(held_out == bool(i))
            position = np.asarray(self._array("random.position"))[members]
            length, token_ids = self._tokens(position)
            row_of = np.full(len(held_out), -1)
            row_of[members] = np.arange(len(members))
            pool[split] = (position, length, token_ids, row_of)
        return pool

    def _windows(self, position: np.ndarray, rows: np.ndarray, offset: np.ndarray, value: np.ndarray) -> Windows:
        length, token_ids = self._tokens(position)
        activations = np.zeros(token_ids.shape, dtype=np.float32)
        activations[rows, offset] = value
        return Windows(position, length, token_ids, activations)

    def _tokens(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        corpus = self.corpus
        end = np.asarray(corpus.sequence_starts)[corpus.sequence_of(position) + 1] if len(position) else position
        length = np.minimum(self.window_tokens, end - position)
        places = position[:, None] + np.arange(self.window_tokens)
        inside = places < (position + length)[:, None]
        ids = np.asarray(corpus.tokens[np.minimum(places, corpus.n_tokens - 1)], dtype=np.int64)
        return length, np.where(inside, ids, -1)

    def contexts(self, windows: Windows, source: Source, split: Split) -> tuple[Context, ...]:
        """The windows as records, with their tokens as text."""
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


def _read_manifest(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        what = "this is a database" if folder.suffix == ".db" else "this is a file"
        raise NotFoundError(f"evidence {folder}: {what}; give the folder that `labeler gather` has written")
    if not folder.is_dir():
        raise NotFoundError(f"evidence {folder}: no such folder; make one with `labeler gather`")
    if not (folder / "manifest.json").exists():
        unfinished = (folder / "plan.json").exists()
        raise NotFoundError(
            f"evidence {folder}: the gathering pass is not finished; run the same `labeler gather` again to continue it "
            "(or `labeler merge` once all shards are done)"
            if unfinished
            else f"evidence {folder}: no manifest.json there; give a folder that `labeler gather` has written"
        )
    manifest = read_json(folder / "manifest.json")
    if any(manifest.get(key) != value for key, value in HEAD.items()):
        raise FormatError(
            f"evidence {folder}: manifest.json says format {manifest.get('format')!r} version {manifest.get('version')!r}; "
            f"this version reads {HEAD['format']!r} version {HEAD['version']}; gather again"
        )
    return dict(manifest)
