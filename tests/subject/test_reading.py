"""Documents as token batches and hidden states, against the planted subject: a token a character, a unit vector each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from labeler.errors import InputError
from labeler.subject.corpus import Document
from labeler.subject.model import Subject, load_subject
from labeler.subject.reading import first_tokens, hidden_batches, token_batches
from tests.planted import CHARACTERS, D_MODEL, HOOKPOINT, Planted

TEXTS = ["abc" * 30, "q", "", "Hello there" * 8]


@pytest.fixture(scope="module")
def subject(planted: Planted) -> Subject:
    return load_subject(str(planted.subject), device="cpu")


def documents(texts: list[str]) -> list[Document]:
    return [Document(str(i), text) for i, text in enumerate(texts)]


def pieces(texts: list[str], width: int) -> list[str]:
    return sorted(text[low : low + width] for text in texts for low in range(0, len(text), width))


@pytest.mark.parametrize("bos", [None, 0])
def test_sequences_tile_documents_and_never_cross_them(subject: Subject, bos: int | None) -> None:
    many = TEXTS * 40  # more than are sorted and padded together
    read = []
    for batch in token_batches(subject, documents(many), 32, bos):
        assert bos is None or (batch.ids[:, 0] == bos).all()
        read += ["".join(CHARACTERS[i - 1] for i in ids[mask]) for ids, mask in zip(batch.ids, batch.mask, strict=True)]
    assert sorted(read) == pieces(many, 32)


def test_little_is_padding(subject: Subject) -> None:
    uneven = ["a" * n for n in range(1, 65)] * 8
    masks = [batch.mask for batch in token_batches(subject, documents(uneven), 64)]
    assert sum(int(m.sum()) for m in masks) > 0.85 * sum(m.numel() for m in masks)


def test_hidden_states_are_those_of_the_tokens(subject: Subject) -> None:
    """The embedding of a character is a unit vector of its own; padding and BOS leave nothing."""
    batches = token_batches(subject, documents(TEXTS), 32, bos=0)
    hidden = torch.cat(list(hidden_batches(subject, subject.hookpoint(HOOKPOINT), batches)))
    assert hidden.shape == (sum(map(len, TEXTS)), D_MODEL)
    counts = {c: round(hidden[:, 1 + CHARACTERS.index(c)].sum().item()) for c in "aqH"}
    assert counts == {c: "".join(TEXTS).count(c) for c in "aqH"}
    assert hidden[:, 0].sum() == 0


def test_reading_stops_at_a_whole_batch(subject: Subject) -> None:
    batches = list(first_tokens(token_batches(subject, documents(["a" * 32] * 320), 32), 1_025))
    assert [int(b.mask.sum()) for b in batches] == [1_024, 1_024]


def test_token_ids_that_the_subject_does_not_know_are_named(subject: Subject) -> None:
    arrays = [Document("tokens.npy:7", token_ids=np.array([1, 2, 999]))]
    with pytest.raises(InputError, match=r"document 'tokens\.npy:7': token id 999 is outside the subject's vocabulary"):
        list(token_batches(subject, arrays, 32))
