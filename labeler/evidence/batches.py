"""Cut the corpus for the subject: chunks that shards take whole, batches of sequences of similar length, windows.

A batch depends only on the corpus and the configuration, never on the shard or on where a killed run resumed.
Matrix products may differ in the last bit between batch shapes, and evidence must not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labeler.evidence.ragged import ranges, starts_of
from labeler.recipe import GatherConfig
from labeler.subject.sequences import TokenizedCorpus


@dataclass(frozen=True)
class Batch:
    """Some sequences, longest first, and the windows that they are cut into.

    "Token" counts the corpus tokens of the batch in order, [n_tokens]; "position" is a place in the corpus.
    """

    starts: np.ndarray  # [n_sequences] position of each sequence
    lengths: np.ndarray  # [n_sequences]
    held_out: np.ndarray  # [n_sequences] bool
    window_tokens: int

    @property
    def n_tokens(self) -> int:
        return int(self.lengths.sum())

    @cached_property
    def first_tokens(self) -> np.ndarray:
        """Return [n_sequences + 1] the index among the batch's tokens at which each sequence begins."""
        return starts_of(self.lengths)

    @cached_property
    def windows_per_sequence(self) -> np.ndarray:
        return -(-self.lengths // self.window_tokens)

    @cached_property
    def sequence_of_window(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.lengths)), self.windows_per_sequence)

    @cached_property
    def window_first_tokens(self) -> np.ndarray:
        """Return [n_windows] the index among the batch's tokens at which each window begins."""
        inside = ranges(np.zeros(len(self.lengths), dtype=np.int64), self.windows_per_sequence) * self.window_tokens
        return np.asarray(self.first_tokens[self.sequence_of_window] + inside)

    @cached_property
    def window_positions(self) -> np.ndarray:
        """Return [n_windows] the position of each window in the corpus."""
        sequence = self.sequence_of_window
        return np.asarray(self.starts[sequence] + self.window_first_tokens - self.first_tokens[sequence])

    @cached_property
    def window_of_token(self) -> np.ndarray:
        """Return [n_tokens] the window that holds each token."""
        lengths = np.diff(np.append(self.window_first_tokens, self.n_tokens))
        return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)

    @cached_property
    def window_held_out(self) -> np.ndarray:
        return np.asarray(self.held_out[self.sequence_of_window])

    def padded_ids(self, tokens: np.ndarray, bos: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return token ids [n_sequences, longest (+ 1 with a BOS)] and a mask that is true on corpus tokens."""
        lead = 0 if bos is None else 1
        width = int(self.lengths.max()) + lead
        ids = np.zeros((len(self.lengths), width), dtype=np.int64)
        mask = np.zeros((len(self.lengths), width), dtype=bool)
        if bos is not None:
            ids[:, 0] = bos
        for row, (start, length) in enumerate(zip(self.starts, self.lengths, strict=True)):
            ids[row, lead : lead + length] = tokens[start : start + length]
            mask[row, lead : lead + length] = True
        return ids, mask


def n_chunks(corpus: TokenizedCorpus, config: GatherConfig) -> int:
    return -(-corpus.n_tokens // config.chunk_tokens)


def _sequences_of_chunk(corpus: TokenizedCorpus, chunk: int, config: GatherConfig) -> tuple[int, int]:
    edges = [chunk * config.chunk_tokens, (chunk + 1) * config.chunk_tokens]
    low, high = np.minimum(np.searchsorted(corpus.sequence_starts, edges), corpus.n_sequences).tolist()
    return low, high


def tokens_of_chunk(corpus: TokenizedCorpus, chunk: int, config: GatherConfig) -> int:
    low, high = _sequences_of_chunk(corpus, chunk, config)
    return int(corpus.sequence_starts[high] - corpus.sequence_starts[low])


def batches_of_chunk(corpus: TokenizedCorpus, chunk: int, config: GatherConfig) -> Iterator[Batch]:
    """Return the batches of one chunk: the sequences that begin in it, longest first, so that little is padding."""
    low, high = _sequences_of_chunk(corpus, chunk, config)
    if low >= high:
        return
    bounds = np.asarray(corpus.sequence_starts[low : high + 1])
    starts, lengths = bounds[:-1], np.diff(bounds)
    held_out = np.asarray(corpus.held_out)[corpus.document_of(starts)]
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        rows = max(1, config.batch_tokens // int(lengths[order[0]]))
        taken, order = order[:rows], order[rows:]
        yield Batch(starts[taken], lengths[taken], held_out[taken], config.window_tokens)
