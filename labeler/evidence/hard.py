"""Find HARD windows: they look as if a feature should fire there, and it is silent. They come from what was gathered
anyway.

A feature's activations are known on its own windows and on the RANDOM windows that all features share. Elsewhere, a
missing record of a firing proves nothing. So a window of another feature counts only where the gathered lists prove
silence (`Silence`). They always do for features that fire in few windows, and rarely for those that fire in many.
Frequent features have their HARD windows among the RANDOM ones, of which many then hold their tokens.
"""

from __future__ import annotations

import numpy as np

from labeler.evidence.directions import read_neighbours
from labeler.evidence.format import SPLITS
from labeler.evidence.order import one_a_document_first
from labeler.evidence.state import window_hash
from labeler.evidence.store import EvidenceFolder, Windows
from labeler.records import Source, Split

_TOKENS = 10
_WORTH = 0.02  # of the activation mass, or a token is not one of the feature's own


def hard_windows(folder: EvidenceFolder, feature_index: int, split: Split, rng: np.random.Generator) -> Windows:
    """Return windows of `split` on which the feature is certainly silent, the most alike first.

    First come windows that hold one of its tokens, the token of the largest activation mass before others. Then come
    windows on which a feature with a near decoder direction fires, the nearest before others. Of both kinds, one window
    per document comes before second ones. `rng` decides between equals.
    """
    tokens, neighbours = own_tokens(folder, feature_index), _neighbours(folder, feature_index)
    found = [_random(folder, feature_index, split, neighbours)]
    silence = Silence(folder, feature_index, split)
    for rank, neighbour in enumerate(neighbours):
        for source in (Source.TOP, Source.SAMPLED):
            windows = folder.windows(neighbour, source, split)
            windows = windows.take(np.flatnonzero(silence.proven(windows)))
            found.append((windows, np.full(len(windows), rank)))
    position, length, token_ids = (
        np.concatenate([getattr(w, name) for w, _ in found]) for name in ("position", "length", "token_ids")
    )
    windows = Windows(position, length, token_ids, np.zeros(token_ids.shape, dtype=np.float32))
    by_token, by_neighbour = _first_held(token_ids, tokens), np.concatenate([rank for _, rank in found])
    order = np.lexsort((rng.permutation(len(windows)), by_neighbour, by_token))
    documents = folder.corpus.document_of(position)
    holds, near = by_token[order] < len(tokens), by_neighbour[order] < len(neighbours)
    return windows.take(
        one_a_document_first(order[holds], documents) + one_a_document_first(order[~holds & near], documents)
    )


def own_tokens(folder: EvidenceFolder, feature_index: int) -> list[int]:
    """Return the tokens that carry the feature's activation in its EXPLAIN windows, largest share first."""
    windows = [folder.windows(feature_index, source, Split.EXPLAIN) for source in (Source.TOP, Source.SAMPLED)]
    fires = [w.activations > 0 for w in windows]
    ids = np.concatenate([w.token_ids[f] for w, f in zip(windows, fires, strict=True)])
    values = np.concatenate([w.activations[f] for w, f in zip(windows, fires, strict=True)])
    unique, of_token = np.unique(ids, return_inverse=True)
    mass = np.bincount(of_token, weights=values, minlength=len(unique))
    order = np.argsort(-mass, kind="stable")[:_TOKENS]
    return [int(unique[i]) for i in order if mass[i] >= _WORTH * mass.sum()]


class Silence:
    """The proof, from gathered evidence, that a feature is silent in windows of one split.

    SAMPLED holds every firing window where it holds as many as were counted: then all firings are known. Else it holds
    those of lowest hash. A window of lower hash than its worst would be in it if the feature fired there. Where TOP
    holds fewer windows than the pass keeps, it has one of every sequence in which the feature fires. Then all other
    sequences are silent.
    """

    def __init__(self, folder: EvidenceFolder, feature_index: int, split: Split) -> None:
        self._corpus, self._width, self._feature = folder.corpus, folder.window_tokens, feature_index
        self._seed = int(folder.manifest["config"]["seed"])
        at = SPLITS.index(split)
        sampled = folder.windows(feature_index, Source.SAMPLED, split)
        self._firing: np.ndarray | None = None  # positions, sorted
        if len(sampled) == folder.firing_windows(feature_index)[at]:
            row, offset = np.nonzero(sampled.activations > 0)
            self._firing = np.sort(sampled.position[row] + offset)
        self._sampled, self._limit = sampled.position, self._hash(sampled.position).max(initial=np.uint64(0))
        top = folder.windows(feature_index, Source.TOP, split)
        self._sequences: np.ndarray | None = None
        if len(top) < int(folder.manifest["config"]["n_top"][at]):
            self._sequences = self._corpus.sequence_of(top.position)

    def proven(self, windows: Windows) -> np.ndarray:
        """Return [n] flags: true for each window in which the feature is certainly silent."""
        certain = np.zeros(len(windows), dtype=bool)
        if self._firing is not None:
            before = np.searchsorted(self._firing, windows.position)
            certain |= before == np.searchsorted(self._firing, windows.position + windows.length)
        if self._sequences is not None:
            certain |= ~np.isin(self._corpus.sequence_of(windows.position), self._sequences)
        unlisted = (self._hash(windows.position) < self._limit) & ~np.isin(windows.position, self._sampled)
        return np.asarray(certain | (unlisted & self._is_cut(windows.position)))

    def _hash(self, position: np.ndarray) -> np.ndarray:
        return window_hash(position, self._feature, self._seed)

    def _is_cut(self, position: np.ndarray) -> np.ndarray:
        """Return True for a window that sequences are cut into; those of TOP lie around peaks."""
        begin = np.asarray(self._corpus.sequence_starts)[self._corpus.sequence_of(position)]
        return np.asarray((position - begin) % self._width == 0)


def _random(
    folder: EvidenceFolder, feature_index: int, split: Split, neighbours: list[int]
) -> tuple[Windows, np.ndarray]:
    """Return the RANDOM windows without this feature, and the rank of the nearest neighbor that fires in each."""
    windows = folder.windows(feature_index, Source.RANDOM, split)
    rank = np.full(len(windows), len(neighbours))
    for i, neighbour in reversed(list(enumerate(neighbours))):
        rank[folder.windows(neighbour, Source.RANDOM, split).peak > 0] = i
    silent = np.flatnonzero(windows.peak == 0)
    return windows.take(silent), rank[silent]


def _first_held(token_ids: np.ndarray, tokens: list[int]) -> np.ndarray:
    """Return [n] the place in `tokens` of the first one that each window holds; len(tokens) where it holds none."""
    first = np.full(len(token_ids), len(tokens))
    for place, token in reversed(list(enumerate(tokens))):
        first[(token_ids == token).any(axis=1)] = place
    return first


def _neighbours(folder: EvidenceFolder, feature_index: int) -> list[int]:
    """Return features with near decoder directions, nearest first; none where the pass did not look for them."""
    return [f for f, _ in read_neighbours(folder, feature_index) if f >= 0]
