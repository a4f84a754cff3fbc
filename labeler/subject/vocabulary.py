"""Give the text of each token id, so that joined tokens give the document back (as far as UTF-8 allows)."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from labeler.files import map_npy, save_npy


def token_texts(tokenizer: Any, vocabulary_size: int) -> list[str]:
    """One text per token id, [vocabulary_size]. Parts of a multi-byte character show as U+FFFD."""
    return [piece.decode("utf-8", errors="replace") for piece in token_bytes(tokenizer, vocabulary_size)]


def token_bytes(tokenizer: Any, vocabulary_size: int) -> list[bytes]:
    """The UTF-8 bytes of each token id, [vocabulary_size]; some are parts of a character."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(vocabulary_size, len(tokenizer)))))
    byte_level = any(p is not None and "Ġ" in p for p in pieces)
    special = set(tokenizer.all_special_tokens)
    decode = _byte_level if byte_level else _sentencepiece
    found = [b"" if p is None else _encoded(p) if p in special else decode(p) for p in pieces]
    return found + [b""] * (vocabulary_size - len(found))


def _sentencepiece(piece: str) -> bytes:
    if piece.startswith("<0x") and piece.endswith(">") and len(piece) == 6:
        return bytes([int(piece[3:5], 16)])
    return _encoded(piece.replace("▁", " "))


def _byte_level(piece: str) -> bytes:
    try:
        return bytes(_BYTE_OF[c] for c in piece)
    except KeyError:  # an added token, which is not spelled in bytes
        return _encoded(piece)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


def _printable_bytes() -> dict[str, int]:
    """The inverse of GPT-2's byte alphabet (Radford et al. 2019): a printable character for each of 256 bytes."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(b): b for b in kept}
    for n, b in enumerate(b for b in range(256) if b not in kept):
        alphabet[chr(256 + n)] = b
    return alphabet


_BYTE_OF = _printable_bytes()


def save_vocabulary(folder: Path, tokens: Sequence[str | bytes]) -> None:
    """Write the tokens as bytes and offsets, so that a reader maps them instead of parsing them all."""
    encoded = [_encoded(token) if isinstance(token, str) else token for token in tokens]
    save_npy(folder / "vocabulary.bytes.npy", np.frombuffer(b"".join(encoded), dtype=np.uint8))
    save_npy(folder / "vocabulary.starts.npy", np.cumsum([0, *(len(e) for e in encoded)]))


@dataclass(frozen=True)
class Span:
    """Tokens [start, end) that are shown as one, since only together they are whole characters."""

    start: int
    end: int
    text: str


_LONGEST_SPAN = 8  # tokens: what does not come to an end within these is shown token by token


def character_spans(pieces: Sequence[bytes]) -> list[Span]:
    """Cut tokens so that each span holds whole characters: nearly always one token, of rare characters several.

    Bytes that are part of no character here, such as a half at the edge of a window, show as U+FFFD, token by token.
    """
    spans, start = list[Span](), 0
    while start < len(pieces):
        spans.append(_span_at(pieces, start))
        start = spans[-1].end
    return spans


def _span_at(pieces: Sequence[bytes], start: int) -> Span:
    decoder, text = _UTF8("strict"), ""
    for end in range(start, min(start + _LONGEST_SPAN, len(pieces))):
        try:
            text += decoder.decode(pieces[end])
        except UnicodeDecodeError:
            break
        if not decoder.getstate()[0]:  # no bytes wait for the rest of their character
            return Span(start, end + 1, text)
    return Span(start, start + 1, pieces[start].decode("utf-8", errors="replace"))


_UTF8 = codecs.getincrementaldecoder("utf-8")


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
            found = self._texts[token_id] = self.bytes(token_id).decode("utf-8", errors="replace")
        return found

    def bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token, which may be a part of a character."""
        low, high = int(self._starts[token_id]), int(self._starts[token_id + 1])
        return self._bytes[low:high].tobytes()

    def shown(self, token_id: int) -> str:
        """The text of a token that stands alone; bytes that are only a part of a character as `\\xe3`."""
        return self.bytes(token_id).decode("utf-8", errors="backslashreplace")

    def joined(self, token_ids: Iterable[int]) -> str:
        """The text that the tokens are together, with characters whole that are cut between tokens."""
        return b"".join(map(self.bytes, token_ids)).decode("utf-8", errors="replace")

    def spans(self, token_ids: Iterable[int]) -> list[Span]:
        """The tokens as they are shown to people (character_spans)."""
        return character_spans([self.bytes(i) for i in token_ids])
