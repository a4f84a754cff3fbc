"""The text that each token id stands for, so that joined tokens give the document back (as far as UTF-8 allows)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labeler.files import map_npy, save_npy


def token_texts(tokenizer: Any, vocabulary_size: int) -> list[str]:
    """One text per token id, [vocabulary_size]. Parts of a multi-byte character show as U+FFFD."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(vocabulary_size, len(tokenizer)))))
    byte_level = any(p is not None and "Ġ" in p for p in pieces)
    special = set(tokenizer.all_special_tokens)
    decode = _byte_level if byte_level else _sentencepiece
    texts = ["" if p is None else p if p in special else decode(p) for p in pieces]
    return texts + [""] * (vocabulary_size - len(texts))


def _sentencepiece(piece: str) -> str:
    if piece.startswith("<0x") and piece.endswith(">") and len(piece) == 6:
        return bytes([int(piece[3:5], 16)]).decode("utf-8", errors="replace")
    return piece.replace("▁", " ")


def _byte_level(piece: str) -> str:
    try:
        return bytes(_BYTE_OF[c] for c in piece).decode("utf-8", errors="replace")
    except KeyError:  # an added token, which is not spelled in bytes
        return piece


def _printable_bytes() -> dict[str, int]:
    """The inverse of GPT-2's byte alphabet (Radford et al. 2019): a printable character for each of 256 bytes."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(b): b for b in kept}
    for n, b in enumerate(b for b in range(256) if b not in kept):
        alphabet[chr(256 + n)] = b
    return alphabet


_BYTE_OF = _printable_bytes()


def save_vocabulary(folder: Path, texts: list[str]) -> None:
    """Write the texts as UTF-8 bytes and offsets, so that a reader maps them instead of parsing them all."""
    encoded = [text.encode("utf-8", errors="replace") for text in texts]
    save_npy(folder / "vocabulary.bytes.npy", np.frombuffer(b"".join(encoded), dtype=np.uint8))
    save_npy(folder / "vocabulary.starts.npy", np.cumsum([0, *(len(e) for e in encoded)]))


class Vocabulary:
    """The text of token ids, decoded as they are asked for."""

    def __init__(self, folder: Path, array: Callable[[str], np.ndarray] | None = None) -> None:
        array = array or (lambda name: map_npy(folder / name))
        self._bytes = array("vocabulary.bytes.npy")
        self._starts = array("vocabulary.starts.npy")
        self._texts: dict[int, str] = {}

    @cached_property
    def classes(self) -> np.ndarray:
        """[n_vocabulary] the same number for tokens that differ in case, in surrounding blanks or in digits alone."""
        numbers: dict[str, int] = {}
        normal = ("".join("0" if c.isdigit() else c for c in self.text(i).strip().lower()) for i in range(len(self)))
        return np.array([numbers.setdefault(text, len(numbers)) for text in normal], dtype=np.uint64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def text(self, token_id: int) -> str:
        if (found := self._texts.get(token_id)) is None:
            low, high = int(self._starts[token_id]), int(self._starts[token_id + 1])
            found = self._texts[token_id] = self._bytes[low:high].tobytes().decode("utf-8", errors="replace")
        return found
