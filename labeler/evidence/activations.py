"""Find the features that fire on a text, read by the evidence's subject and SAE as in the gathering pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from labeler.errors import InputError
from labeler.evidence.batches import Batch
from labeler.evidence.target import Target, bos_token, kept_tokens
from labeler.recipe import GatherConfig
from labeler.subject.corpus import Document
from labeler.subject.model import Subject
from labeler.subject.sequences import token_ids
from labeler.subject.vocabulary import Vocabulary

_TOP = 10  # features named at each token
_MOST_FEATURES = 200  # whose every firing is listed
_MOST_ENTRIES = 50_000  # firings listed in all: a dense SAE fires everywhere


@dataclass(frozen=True)
class TextActivations:
    """Every firing on a text. Entries are ordered by token and, within a token, by feature."""

    token_ids: np.ndarray  # [n_tokens]
    token: np.ndarray  # [n] where it fires
    feature: np.ndarray  # [n]
    value: np.ndarray  # [n] float32, raw SAE units, above 0


def read_text(
    subject: Subject, target: Target, config: GatherConfig, text: str, most_tokens: int | None = None
) -> TextActivations:
    """Return every firing on a text, which is cut into sequences like a document.

    Raises InputError for no or too many tokens.
    """
    ((_, ids),) = token_ids([Document("text", text)], subject.tokenizer, subject.vocabulary_size)
    if len(ids) == 0:
        raise InputError("the text holds no token: give some words")
    if most_tokens is not None and len(ids) > most_tokens:
        raise InputError(
            f"the text is {len(ids):,} tokens for {subject.id}, and at most {most_tokens:,} are read: give a part of it"
        )
    bos = bos_token(subject, target.sae, config)
    parts = [_read(subject, target, config, ids, batch, bos) for batch in _batches(len(ids), config)]
    token, feature, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TextActivations(ids, token, feature, value)


def _batches(n_tokens: int, config: GatherConfig) -> Iterator[Batch]:
    starts = np.arange(0, n_tokens, config.sequence_tokens)
    lengths = np.minimum(config.sequence_tokens, n_tokens - starts)
    rows = max(1, config.batch_tokens // int(lengths[0]))
    for low in range(0, len(starts), rows):
        part = slice(low, low + rows)
        yield Batch(starts[part], lengths[part], np.zeros(len(starts[part]), dtype=bool), config.window_tokens)


def _read(
    subject: Subject, target: Target, config: GatherConfig, ids: np.ndarray, batch: Batch, bos: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    padded, mask = (torch.from_numpy(array) for array in batch.padded_ids(ids, bos))
    hidden = subject.hidden(padded, [target.hookpoint])[target.hookpoint]
    kept = kept_tokens(subject, target.sae, padded, config.sequence_tokens, bos)
    sparse = target.sae.encode_sparse(hidden[(mask & kept).to(hidden.device)])
    token, feature, value = (t.cpu() for t in (sparse.token, sparse.feature, sparse.value.float()))
    token = kept[mask].nonzero()[:, 0][token]
    return token.numpy() + int(batch.starts[0]), feature.numpy(), value.numpy()


def describe_activations(found: TextActivations, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return one JSON object: the strongest features of each token, and all firings of each strong feature."""
    texts = [_token(vocabulary, int(i)) for i in found.token_ids]
    features = _by_peak(found)
    return {
        "tokens": [{**text, "n_firing": n, "top": top} for text, (n, top) in zip(texts, _by_token(found), strict=True)],
        "n_firing": len(features),
        "features": list(_listed(found, features)),
    }


def _token(vocabulary: Vocabulary, token_id: int) -> dict[str, str]:
    """Return a token's text, with its bytes where it is only a part of a character.

    Joined with the bytes of the tokens beside it, they can be read.
    """
    text = vocabulary.text(token_id)
    return {"token": text, "bytes": vocabulary.bytes(token_id).hex()} if "\ufffd" in text else {"token": text}


def _by_token(found: TextActivations) -> Iterator[tuple[int, list[list[float]]]]:
    """Count the features that fire on each token, and list the strongest of them as [feature, activation]."""
    order = np.lexsort((found.feature, -found.value, found.token))
    edges = np.searchsorted(found.token[order], np.arange(len(found.token_ids) + 1))
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        top = order[low : min(high, low + _TOP)]
        yield (
            high - low,
            [list(pair) for pair in zip(found.feature[top].tolist(), _short(found.value[top]), strict=True)],
        )


def _by_peak(found: TextActivations) -> np.ndarray:
    """Return the features that fire, the highest activation first."""
    order = np.lexsort((found.feature, -found.value))
    _, first = np.unique(found.feature[order], return_index=True)
    return found.feature[order][np.sort(first)]


def _listed(found: TextActivations, features: np.ndarray) -> Iterator[dict[str, Any]]:
    room = _MOST_ENTRIES
    for feature in features[:_MOST_FEATURES].tolist():
        entries = np.flatnonzero(found.feature == feature)
        room -= len(entries)
        if room < 0:
            return
        yield {
            "feature_index": feature,
            "at": found.token[entries].tolist(),
            "activations": _short(found.value[entries]),
        }


def _short(values: np.ndarray) -> list[float]:
    """Return the shortest decimals that read back as the same float32 values."""
    return [float(str(v)) for v in values.astype(np.float32)]
