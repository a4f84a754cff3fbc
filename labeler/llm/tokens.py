"""The number of tokens in a text for paid models, counted or estimated without a network."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_CL100K = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"

# The pieces into which cl100k cuts a text before it merges bytes; a token never crosses their edges. Words are one
# token up to some seven letters, and code is mostly short words.
_PIECES = re.compile(
    r"'(?:[sdmt]|ll|ve|re)|[^\r\n\w]?[^\W\d_]+|\d{1,3}| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", re.IGNORECASE
)
_LETTERS, _SIGNS = 6.0, 2.0  # characters per token, in the longer pieces


@dataclass(frozen=True)
class TokenCounter:
    name: str  # how it counts, for people
    count: Callable[[str], int]


def token_counter() -> TokenCounter:
    """Return a counter with cl100k where `tiktoken` and its vocabulary are on this machine, else an estimate. It never
    uses the network.
    """
    if _vocabulary_is_here():
        try:
            import tiktoken
        except ImportError:
            pass
        else:
            encoding = tiktoken.get_encoding("cl100k_base")
            return TokenCounter("counted with cl100k", lambda text: len(encoding.encode(text, disallowed_special=())))
    return TokenCounter("estimated from the text's pieces, within some 10% of cl100k", estimate_tokens)


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of cl100k: one for each short piece, more for the long ones."""
    return sum(_tokens_of(piece) for piece in _PIECES.findall(text))


def _tokens_of(piece: str) -> int:
    n_bytes = len(piece.encode())
    if piece.isspace() or piece.isdecimal():
        return 1
    a_token = _LETTERS if piece.strip()[-1:].isalpha() and piece.isascii() else _SIGNS
    return max(1, round(n_bytes / a_token))


def _vocabulary_is_here() -> bool:
    # tiktoken keeps its downloads here (tiktoken/load.py).
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    place = Path(folder) if folder else Path(tempfile.gettempdir()) / "data-gym-cache"
    return (place / hashlib.sha1(_CL100K.encode()).hexdigest()).exists()
