"""Open the files of a finished evidence folder and check them before they are used.

Each array has the form that readers rely on. Its blocks are compared with their hashes before their first use, once
per opened folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import DamagedError, DamagedFeatureError
from labeler.evidence.format import SPLITS
from labeler.evidence.hashes import BLOCK_BYTES, Cut, Hashes, as_damage, hash_of
from labeler.evidence.manifest import has_hashes
from labeler.files import map_npy, read_json
from labeler.records import HISTOGRAM_EDGES, Source
from labeler.subject.sequences import TokenizedCorpus

_KINDS = [f"contexts/{source}_{split}" for source in (Source.TOP, Source.SAMPLED) for split in SPLITS]
_STARTS = [*(f"{kind}.{of}_starts.npy" for kind in _KINDS for of in ("feature", "entry")), "random.feature_starts.npy"]
_CORPUS_STARTS = ["corpus/document_starts.npy", "corpus/sequence_starts.npy"]
_FLOATS, _WHOLE_NUMBERS, _BOOLEANS = "f", "iu", "b"


class CheckedArray:
    """A memory-mapped array whose blocks are compared with their hashes, once, before they are used.

    Without hashes nothing is compared.
    """

    def __init__(self, folder: Path, name: str, hashes: Hashes | None) -> None:
        self._folder, self.name = folder, name
        with as_damage(folder, name):
            mapped = map_npy(folder / name)
        self.values = mapped.view(np.ndarray)  # a slice of a memmap costs microseconds, and a read takes hundreds
        if not self.values.flags.c_contiguous:
            raise DamagedError(folder, name, "expected an array in rows")
        mapping = getattr(mapped, "_mmap", None)  # an array without elements has none
        self._raw = np.fromfile(folder / name, np.uint8) if mapping is None else np.frombuffer(mapping, np.uint8)
        self._table = None if hashes is None else hashes.table(name)
        self._cut = Cut(len(self._raw), len(self._raw) - self.values.nbytes) if hashes is None else hashes.of[name][0]
        self._known = np.zeros(self._cut.n_blocks, dtype=bool)
        self._compare(np.zeros(1, dtype=np.int64), DamagedError)  # the header

    def whole(self) -> np.ndarray:
        """Return the whole array, checked. Raises DamagedError."""
        self.check(0, self.values.size, DamagedError)
        return self.values

    def check(self, low: int, high: int, error: type[DamagedError]) -> None:
        """Check that elements low..high-1, counted over all rows, are as they were written. Raises `error`."""
        if self._table is None or high <= low:
            return
        size = self.values.itemsize
        first, end = 1 + low * size // BLOCK_BYTES, 2 + (high * size - 1) // BLOCK_BYTES
        if not self._known[first:end].all():
            self._compare(np.arange(first, end), error)

    def check_at(self, low: np.ndarray, high: np.ndarray, error: type[DamagedError]) -> None:
        """Check many ranges of elements at once, none of them empty."""
        if self._table is None or len(low) == 0 or self._known.all():
            return
        size = self.values.itemsize
        first, last = 1 + low * size // BLOCK_BYTES, 1 + (high * size - 1) // BLOCK_BYTES
        longest = int((last - first).max()) + 1
        self._compare(np.unique(np.minimum(first[:, None] + np.arange(longest), last[:, None])), error)

    def damaged_elements(self) -> np.ndarray:
        """Return [size] flags: true for each element, counted over all rows, that lies in a damaged block."""
        if self._table is None:
            return np.zeros(self.values.size, dtype=bool)
        whole = np.array([self._is_whole(block) for block in range(len(self._known))], dtype=bool)
        # Elements of 1, 2, 4 or 8 bytes: none lies in two blocks.
        return ~whole[1 + np.arange(self.values.size) * self.values.itemsize // BLOCK_BYTES]

    def _compare(self, blocks: np.ndarray, error: type[DamagedError]) -> None:
        for block in blocks[~self._known[blocks]].tolist():
            if not self._is_whole(block):
                raise error(self._folder, self.name, self._cut.problem(block))

    def _is_whole(self, block: int) -> bool:
        if not self._known[block]:
            low, high = self._cut.bounds(block)
            self._known[block] = self._table is None or hash_of(self._raw[low:high]) == self._table[block].tobytes()
        return bool(self._known[block])


class EvidenceFiles:
    """The files of one folder. Every method raises DamagedError or DamagedFeatureError, naming the file."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.hashes = Hashes(folder, manifest) if has_hashes(manifest) else None
        self._arrays: dict[str, CheckedArray] = {}
        self._shared_is_whole = False
        if self.hashes is not None:
            self.hashes.check_sizes()

    def has(self, name: str) -> bool:
        """Return True if this optional file is there; a file that a killed run left without hashes does not count."""
        return name in self.hashes.of if self.hashes is not None else (self.folder / name).exists()

    def array(self, name: str) -> CheckedArray:
        if name not in self._arrays:
            if self.hashes is not None and name not in self.hashes.of:
                raise DamagedError(self.folder, name, "the manifest has no hash of it")
            self._arrays[name] = CheckedArray(self.folder, name, self.hashes)
        return self._arrays[name]

    def whole(self, name: str) -> np.ndarray:
        return self.array(name).whole()

    def element(self, name: str, index: int) -> Any:
        """Return one number of a feature, counted over all rows."""
        array = self.array(name)
        array.check(index, index + 1, DamagedFeatureError)
        return array.values.reshape(-1)[index]

    def row(self, name: str, feature_index: int) -> np.ndarray:
        """Return the numbers of a feature, from an array of [n_features, n]."""
        array = self.array(name)
        width = array.values.shape[1]
        array.check(feature_index * width, (feature_index + 1) * width, DamagedFeatureError)
        return np.asarray(array.values[feature_index])

    def corpus(self) -> TokenizedCorpus:
        """Open the corpus. Its tokens are not checked here: each reader checks those that it reads."""
        name = "corpus/corpus.json"
        if self.hashes is not None:
            self.hashes.check_whole(name)
        with as_damage(self.folder, name):
            facts = read_json(self.folder / name)
        if not (isinstance(facts, dict) and all(isinstance(facts.get(key), str) for key in ("fingerprint", "spec"))):
            raise DamagedError(self.folder, name, "expected an object with `fingerprint` and `spec`")
        return TokenizedCorpus(
            self.folder / "corpus",
            tokens=self.array("corpus/tokens.npy").values,
            document_starts=self.whole("corpus/document_starts.npy"),
            held_out=self.whole("corpus/held_out.npy"),
            sequence_starts=self.whole("corpus/sequence_starts.npy"),
            fingerprint=facts["fingerprint"],
            spec=facts["spec"],
        )

    def check_shared(self) -> None:
        """Check that everything which features share is as it was written. The first call reads the whole corpus."""
        if not self._shared_is_whole:
            for name in (
                *_STARTS,
                "random.position.npy",
                "random.held_out.npy",
                "token_counts.npy",
                "corpus/tokens.npy",
            ):
                self.whole(name)
        self._shared_is_whole = True

    def check_shapes(self, n_features: int, *, by_others: bool) -> None:
        """Check that every array that readers will ask for is there, in the form that they expect."""
        f, splits = n_features, len(SPLITS)
        self._expect("statistics.n_firing_windows.npy", _WHOLE_NUMBERS, (splits, f))
        self._expect("statistics.maximum.npy", _FLOATS, (f,))
        if by_others:
            self._expect("statistics.density.npy", _FLOATS, (f,))
        else:
            for name in ("n_firings", "activation_sum"):
                self._expect(f"statistics.{name}.npy", _WHOLE_NUMBERS, (f,))
            self._expect("statistics.histogram.npy", _WHOLE_NUMBERS, (f, len(HISTOGRAM_EDGES) + 1))
            for name in ("n_firings_first", "n_firings_massive"):  # which evidence of earlier versions does not have
                if self.has(f"statistics.{name}.npy"):
                    self._expect(f"statistics.{name}.npy", _WHOLE_NUMBERS, (f,))
        for kind in _KINDS:
            self._expect_rows(kind, "feature_starts", f, {"start": _WHOLE_NUMBERS, "n_entries": _WHOLE_NUMBERS})
            self._expect_rows(kind, "entry_starts", f, {"offset": _WHOLE_NUMBERS, "value": _FLOATS})
        random = {"window": _WHOLE_NUMBERS, "offset": _WHOLE_NUMBERS, "value": _FLOATS}
        self._expect_rows("random", "feature_starts", f, random)
        n_random = len(self._expect("random.position.npy", _WHOLE_NUMBERS, (None,)))
        self._expect("random.held_out.npy", _BOOLEANS, (n_random,))
        self._check_vocabulary()
        self._check_corpus()
        self._check_directions(f)

    def _check_vocabulary(self) -> None:
        n_bytes = len(self._expect("vocabulary.bytes.npy", _WHOLE_NUMBERS, (None,)))
        starts = self._expect("vocabulary.starts.npy", _WHOLE_NUMBERS, (None,))
        self._check_starts("vocabulary.starts.npy", n_bytes)
        self._expect("token_counts.npy", _WHOLE_NUMBERS, (len(SPLITS), len(starts) - 1))

    def _check_corpus(self) -> None:
        n_tokens = len(self._expect("corpus/tokens.npy", _WHOLE_NUMBERS, (None,)))
        n_documents = len(self._expect("corpus/held_out.npy", _BOOLEANS, (None,)))
        for name, n in zip(_CORPUS_STARTS, (n_documents + 1, None), strict=True):
            self._expect(name, _WHOLE_NUMBERS, (n,))
            self._check_starts(name, n_tokens)

    def _check_directions(self, n_features: int) -> None:
        if self.has("output.tokens.npy"):
            width = self._expect("output.tokens.npy", _WHOLE_NUMBERS, (n_features, None)).shape[1]
            self._expect("output.logits.npy", _FLOATS, (n_features, width))
            self._expect("output.histogram.npy", _WHOLE_NUMBERS, (n_features, None))
            self._expect("output.range.npy", _FLOATS, (n_features, 2))
        if self.has("output.places.tokens.npy"):
            width = self._expect("output.places.tokens.npy", _WHOLE_NUMBERS, (n_features, None)).shape[1]
            self._expect("output.places.logits.npy", _FLOATS, (n_features, width))
        if self.has("neighbours.features.npy") and self.has("neighbours.cosines.npy"):
            width = self._expect("neighbours.features.npy", _WHOLE_NUMBERS, (n_features, None)).shape[1]
            self._expect("neighbours.cosines.npy", _FLOATS, (n_features, width))

    def _expect_rows(self, place: str, starts: str, n_features: int, arrays: dict[str, str]) -> None:
        """Check rows of unequal length: their offsets, and that each array has as many elements as they say."""
        self._expect(f"{place}.{starts}.npy", _WHOLE_NUMBERS, (n_features + 1,))
        lengths = {len(self._expect(f"{place}.{name}.npy", kinds, (None,))) for name, kinds in arrays.items()}
        if len(lengths) > 1:
            names = ", ".join(f"{place}.{name}.npy" for name in arrays)
            raise DamagedError(self.folder, names, f"expected as many elements in each, found {sorted(lengths)}")
        self._check_starts(f"{place}.{starts}.npy", lengths.pop())

    def _expect(self, name: str, kinds: str, shape: Sequence[int | None]) -> np.ndarray:
        found = self.array(name).values
        fits = len(found.shape) == len(shape) and all(
            n is None or n == m for n, m in zip(shape, found.shape, strict=True)
        )
        if found.dtype.kind not in kinds or not fits:
            expected = ", ".join("any" if n is None else f"{n:,}" for n in shape)
            kind = {_FLOATS: "numbers", _WHOLE_NUMBERS: "whole numbers", _BOOLEANS: "true and false"}[kinds]
            raise DamagedError(
                self.folder, name, f"expected {kind} [{expected}], found {found.dtype} {list(found.shape)}"
            )
        return found

    def _check_starts(self, name: str, n: int) -> None:
        """Check offsets that have no hashes: they begin at 0, never fall, and end with the array that they cut."""
        if self.hashes is not None:
            return
        starts = self.array(name).values
        if len(starts) == 0 or int(starts[0]) != 0 or int(starts[-1]) != n or bool((starts[1:] < starts[:-1]).any()):
            raise DamagedError(self.folder, name, f"expected offsets that rise from 0 to {n:,}")
