"""Documents read by the subject as they come: token batches, and the hidden states on their tokens.

The gathering pass keeps its tokens on disk (subject/sequences.py), since evidence points at them. What only needs
hidden states, such as a trainer, reads them here and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from labeler.subject.corpus import Document
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject
from labeler.subject.sequences import token_ids

_SEQUENCES_AT_ONCE = 32
_SEQUENCES_SORTED = 8 * _SEQUENCES_AT_ONCE


@dataclass(frozen=True)
class TokenBatch:
    """Sequences as the subject reads them, padded on the right."""

    ids: Tensor  # [sequences, width] int64
    mask: Tensor  # [sequences, width] bool, true on tokens of documents: neither padding nor BOS


def token_batches(
    subject: Subject, documents: Iterable[Document], sequence_tokens: int, bos: int | None = None
) -> Iterator[TokenBatch]:
    """The documents cut as `labeler gather` cuts them: into sequences within documents, each after `bos` if given.

    Sequences of like length are put together, so that little is padding. Raises InputError on a token id that the
    subject does not know.
    """
    sequences = (
        torch.from_numpy(ids[low : low + sequence_tokens])
        for _document, ids in token_ids(documents, subject.tokenizer, subject.vocabulary_size)
        for low in range(0, len(ids), sequence_tokens)
    )
    while some := list(islice(sequences, _SEQUENCES_SORTED)):
        some.sort(key=len, reverse=True)
        for low in range(0, len(some), _SEQUENCES_AT_ONCE):
            yield _padded(some[low : low + _SEQUENCES_AT_ONCE], bos)


def _padded(sequences: list[Tensor], bos: int | None) -> TokenBatch:
    lead = 0 if bos is None else 1
    ids = torch.zeros(len(sequences), lead + max(map(len, sequences)), dtype=torch.int64)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    if bos is not None:
        ids[:, 0] = bos
    for row, sequence in enumerate(sequences):
        ids[row, lead : lead + len(sequence)] = sequence
        mask[row, lead : lead + len(sequence)] = True
    return TokenBatch(ids, mask)


def first_tokens(batches: Iterable[TokenBatch], n_tokens: int) -> Iterator[TokenBatch]:
    """Whole batches, until they hold `n_tokens` tokens."""
    for batch in batches:
        yield batch
        n_tokens -= int(batch.mask.sum())
        if n_tokens <= 0:
            return


def hidden_batches(subject: Subject, hookpoint: Hookpoint, batches: Iterable[TokenBatch]) -> Iterator[Tensor]:
    """The hidden states on the tokens of each batch, [tokens, d], on the subject's device."""
    for batch in batches:
        hidden = subject.hidden(batch.ids, [hookpoint])[hookpoint]
        yield hidden[batch.mask.to(hidden.device)]
