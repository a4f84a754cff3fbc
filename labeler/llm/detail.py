"""The parts of replies beside text, as endpoints send them and as we keep them: log-probabilities and vectors.

Kept as compact JSON: a token is [token, logprob, [[token, logprob], ...]], a vector base64 of little-endian float32.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from labeler.llm.prompt import TokenChoice

_IMPOSSIBLE = -9999.0  # sent by vLLM in place of minus infinity, which JSON does not have

Kept = list[list[Any]]


def choices_of(kept: Kept) -> tuple[TokenChoice, ...]:
    return tuple(TokenChoice(token, logprob, tuple((t, p) for t, p in others)) for token, logprob, others in kept)


def vectors_of(kept: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    return tuple(_unpacked(base64.b64decode(text)) for text in kept)


def chat_logprobs(choice: Mapping[str, Any]) -> Kept | None:
    """Read `choices[0].logprobs.content` of a chat completion; None where the endpoint sent no log-probabilities."""
    content = _mapping(choice.get("logprobs")).get("content")
    if not isinstance(content, list) or not content:
        return None
    return [
        [entry["token"], _logprob(entry["logprob"]), _ranked(_pairs(entry.get("top_logprobs") or ()))]
        for entry in content
    ]


def prompt_logprobs(choice: Mapping[str, Any], n_prompt_tokens: int, text: str) -> Kept | None:
    """Read the tokens of the prompt in a text completion, in either form that servers have; None without any.

    With `echo`, `choices[0].logprobs` holds prompt and completion in one (OpenAI's first API, vLLM, llama-cpp-python,
    SGLang); vLLM's own `prompt_logprobs` is a list of {token id: {logprob, rank, decoded_token}}.
    """
    if isinstance(own := choice.get("prompt_logprobs"), list):
        return _vllm_tokens(own, text)
    logprobs = _mapping(choice.get("logprobs"))
    tokens, offsets = logprobs.get("tokens") or [], logprobs.get("text_offset") or []
    n = n_prompt_tokens or sum(offset < len(text) for offset in offsets)
    if not 0 < n <= len(tokens):
        return None
    of_tokens, of_others = logprobs.get("token_logprobs") or [], logprobs.get("top_logprobs") or []
    if min(len(of_tokens), len(of_others)) < n or (n > 1 and not any(of_others[1:n])):
        return None
    return [
        [token, 0.0 if i == 0 else _logprob(logprob), _ranked((others or {}).items())]
        for i, (token, logprob, others) in enumerate(zip(tokens[:n], of_tokens, of_others, strict=False))
    ]


def packed_vectors(data: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the vectors of an embeddings answer in the order of the texts; endpoints send base64 or lists of numbers."""
    in_order = sorted(data, key=lambda item: item.get("index", 0))
    return [
        vector if isinstance(vector := item["embedding"], str) else _packed([float(x) for x in vector])
        for item in in_order
    ]


def _vllm_tokens(entries: Sequence[Mapping[str, Any] | None], text: str) -> Kept | None:
    """Read the tokens of vLLM's `prompt_logprobs`.

    The first entry is None: its token is the part of the text that the others leave (empty for a token before the
    text).
    """
    rest = [_vllm_token(entry) for entry in entries[1:] if entry]
    if not entries or len(rest) < len(entries) - 1:
        return None
    covered = "".join(token for token, _, _ in rest)
    return [[text.removesuffix(covered) if text.endswith(covered) else "", 0.0, []], *rest]


def _vllm_token(entry: Mapping[str, Any]) -> list[Any]:
    # The text's own token comes first, whatever its rank.
    all_tokens = [(str(t.get("decoded_token")), t["logprob"]) for t in entry.values()]
    return [all_tokens[0][0], _logprob(all_tokens[0][1]), _ranked(all_tokens)]


def _pairs(entries: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, Any]]:
    return ((entry["token"], entry["logprob"]) for entry in entries)


def _ranked(pairs: Iterable[tuple[str, Any]]) -> list[list[Any]]:
    return sorted(([token, _logprob(logprob)] for token, logprob in pairs), key=lambda pair: -pair[1])


def _logprob(value: Any) -> float:
    return _IMPOSSIBLE if value is None else max(float(value), _IMPOSSIBLE)


def _packed(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _unpacked(raw: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
