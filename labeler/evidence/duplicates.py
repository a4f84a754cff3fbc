"""Find windows that nearly repeat each other: a copied text must not be both shown to an explainer and scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from labeler.evidence.store import EvidenceFolder
from labeler.records import Context

_SHINGLE = 8


class NearDuplicates:
    """Windows seen so far; two are near-duplicates when the Jaccard similarity of their token 8-grams is over a bound."""

    def __init__(self, bound: float, seen: Iterable[frozenset[int]] = ()) -> None:
        self._bound = bound
        self._sizes: list[int] = []
        self._holders: dict[int, list[int]] = {}
        for grams in seen:
            self.add(grams)

    def has(self, grams: frozenset[int]) -> bool:
        if self._holders.keys().isdisjoint(grams):
            return False
        shared = Counter(i for gram in grams for i in self._holders.get(gram, ()))
        return any(n / (len(grams) + self._sizes[i] - n) > self._bound for i, n in shared.items())

    def add(self, grams: frozenset[int]) -> None:
        for gram in grams:
            self._holders.setdefault(gram, []).append(len(self._sizes))
        self._sizes.append(len(grams))


def shingles(folder: EvidenceFolder, token_ids: np.ndarray, length: np.ndarray) -> list[frozenset[int]]:
    """Hash the 8-grams of normalized tokens of each window: token ids [n, width], the first length[i] of them real."""
    classes = folder.vocabulary.classes[np.maximum(token_ids, 0)]
    n_grams = max(token_ids.shape[1] - _SHINGLE + 1, 1)
    hashes = np.zeros((len(token_ids), n_grams), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for i in range(min(_SHINGLE, token_ids.shape[1])):
            hashes = hashes * np.uint64(0x100000001B3) + classes[:, i : i + n_grams] + np.uint64(1)
    # A window shorter than a gram is one gram, cut where its tokens end.
    return [frozenset(row[: max(n - _SHINGLE + 1, 1)]) for row, n in zip(hashes.tolist(), length.tolist(), strict=True)]


def shingles_of_all(folder: EvidenceFolder, contexts: Iterable[Context]) -> list[frozenset[int]]:
    token_ids = [c.token_ids for c in contexts]
    length = np.array([len(ids) for ids in token_ids], dtype=np.int64)
    padded = np.full((len(token_ids), folder.window_tokens), -1)
    for row, ids in zip(padded, token_ids, strict=True):
        row[: len(ids)] = ids
    return shingles(folder, padded, length)
