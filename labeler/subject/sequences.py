"""Store the corpus as the subject reads it: documents cut into sequences of tokens, once on disk.

Everything is a memory-mapped array, so that a corpus of any size costs no memory:

    tokens.npy            [n_tokens]         token ids, documents one after another
    document_starts.npy   [n_documents + 1]  where each document begins in tokens
    held_out.npy          [n_documents]      which documents only ever score labels
    sequence_starts.npy   [n_sequences + 1]  where each sequence begins; no sequence crosses a document
    document_ids.jsonl    one JSON string per document
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import InputError
from labeler.files import NpyWriter, clear_disk_errors, map_npy, read_json, write_json
from labeler.recipe import GatherConfig
from labeler.subject.corpus import Corpus, Document

_DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True)
class TokenizedCorpus:
    """Memory-mapped arrays (see the module's table) and what identifies them."""

    folder: Path
    tokens: np.ndarray
    document_starts: np.ndarray
    held_out: np.ndarray
    sequence_starts: np.ndarray
    fingerprint: str  # of token ids, documents and splits
    spec: str

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_sequences(self) -> int:
        return len(self.sequence_starts) - 1

    @property
    def n_documents(self) -> int:
        return len(self.held_out)

    def document_of(self, positions: np.ndarray) -> np.ndarray:
        """Index of the document that holds each token position."""
        return np.searchsorted(self.document_starts, positions, side="right") - 1

    def sequence_of(self, positions: np.ndarray) -> np.ndarray:
        """Index of the sequence that holds each token position."""
        return np.searchsorted(self.sequence_starts, positions, side="right") - 1


def open_tokenized(folder: Path) -> TokenizedCorpus:
    facts = read_json(folder / "corpus.json")
    arrays = {
        name: map_npy(folder / f"{name}.npy") for name in ("tokens", "document_starts", "held_out", "sequence_starts")
    }
    return TokenizedCorpus(folder, fingerprint=facts["fingerprint"], spec=facts["spec"], **arrays)


def tokenize_corpus(
    corpus: Corpus,
    tokenizer: Any,
    config: GatherConfig,
    folder: Path,
    *,
    vocabulary_size: int,
    on_tokens: Callable[[int], None] = lambda n: None,
) -> TokenizedCorpus:
    """Write the tokenized corpus into `folder`, up to `config.n_tokens`. Raises InputError on a corpus too small."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.uint16 if vocabulary_size <= 1 << 16 else np.uint32
    digest = hashlib.sha256(f"{config.seed}:{config.held_out_share}:{config.sequence_tokens}".encode())
    n_tokens = n_documents = n_held_out = 0
    with (
        clear_disk_errors(folder),
        NpyWriter(folder / "tokens.npy", dtype) as tokens,
        NpyWriter(folder / "document_starts.npy", np.int64) as document_starts,
        NpyWriter(folder / "held_out.npy", np.bool_) as held_out,
        NpyWriter(folder / "sequence_starts.npy", np.int64) as sequence_starts,
        (folder / "document_ids.jsonl").open("w", encoding="utf-8") as document_ids,
    ):
        for document, ids in token_ids(corpus.documents(), tokenizer, vocabulary_size):
            is_held_out = _is_held_out(ids, config)
            if config.n_tokens is not None:
                ids = ids[: config.n_tokens - n_tokens]
            if len(ids) == 0:
                continue
            starts = np.arange(0, len(ids), config.sequence_tokens) + n_tokens
            tokens.append(ids)
            document_starts.append(np.array([n_tokens]))
            sequence_starts.append(starts)
            held_out.append(np.array([is_held_out]))
            document_ids.write(json.dumps(document.id) + "\n")
            digest.update(document.id.encode())
            digest.update(ids.astype("<u4").tobytes())
            n_tokens += len(ids)
            n_documents += 1
            n_held_out += is_held_out
            on_tokens(n_tokens)
            if n_tokens == config.n_tokens:
                break
        document_starts.append(np.array([n_tokens]))
        sequence_starts.append(np.array([n_tokens]))
    if not 0 < n_held_out < n_documents:
        raise InputError(
            f"corpus {corpus.spec!r}: {n_documents} documents with text ({n_tokens} tokens) cannot be split into documents "
            "to explain from and documents held out; give more documents"
        )
    write_json(folder / "corpus.json", {"fingerprint": digest.hexdigest()[:16], "spec": corpus.spec})
    return open_tokenized(folder)


def token_ids(
    documents: Iterable[Document], tokenizer: Any, vocabulary_size: int
) -> Iterator[tuple[Document, np.ndarray]]:
    """Each document with its token ids, [n] int64. Raises InputError on an id outside the vocabulary."""
    documents = iter(documents)
    while batch := list(islice(documents, _DOCUMENTS_AT_ONCE)):
        for document, ids in zip(batch, _encoded(batch, tokenizer), strict=True):
            if len(ids) and int(ids.max()) >= vocabulary_size:
                raise InputError(
                    f"corpus, document {document.id!r}: token id {int(ids.max())} is outside the subject's vocabulary of "
                    f"{vocabulary_size}; tokenize with the subject's own tokenizer"
                )
            yield document, ids


def _encoded(documents: Sequence[Document], tokenizer: Any) -> Iterator[np.ndarray]:
    if documents[0].token_ids is not None:
        return (np.asarray(d.token_ids, dtype=np.int64) for d in documents)
    # verbose=False: documents longer than the subject's context are cut into sequences, which is no news.
    encoded = tokenizer(
        [d.text for d in documents], add_special_tokens=False, verbose=False, return_attention_mask=False
    )
    return (np.asarray(ids, dtype=np.int64) for ids in encoded["input_ids"])


def _is_held_out(ids: np.ndarray, config: GatherConfig) -> bool:
    # By the hash of the content, not of the name: two copies of one document always land on the same side.
    digest = hashlib.sha256(f"split:{config.seed}:".encode() + ids.astype("<u4").tobytes()).digest()
    return int.from_bytes(digest[:8], "big") < config.held_out_share * 2.0**64
