"""Estimates of the tokens of a request, guessed before it is sent and learned from earlier replies."""

from __future__ import annotations

from typing import Any

from labeler.llm.ledger import StoredReply
from labeler.llm.prompt import AnyPrompt, EchoPrompt, EmbeddingPrompt, Prompt

_CHARACTERS_A_TOKEN = 3.0  # on the safe side; English has four, code and marked contexts fewer
_NEW = 0.2  # weight of the latest request in the running means


class Estimate:
    """Running means by model and purpose. Until the first reply, a request is assumed to use all of its max_tokens."""

    def __init__(self) -> None:
        self._characters: dict[str, float] = {}  # characters per token, by model
        self._out: dict[tuple[str, str], float] = {}  # tokens of a reply, by model and purpose

    def tokens(self, prompt: AnyPrompt) -> tuple[int, int]:
        """Estimate the tokens in and out."""
        tokens_in = _n_characters(prompt) / self._characters.get(prompt.model, _CHARACTERS_A_TOKEN)
        at_most = prompt.max_tokens if isinstance(prompt, Prompt) else 0
        return int(tokens_in) + 1, round(self._out.get((prompt.model, prompt.purpose), at_most))

    def learn(self, prompt: AnyPrompt, reply: StoredReply) -> None:
        if reply.tokens_in:
            _mix(self._characters, prompt.model, max(1.0, _n_characters(prompt) / reply.tokens_in))
        if reply.tokens_out:
            _mix(self._out, (prompt.model, prompt.purpose), reply.tokens_out)


def _mix(means: dict[Any, float], key: Any, value: float) -> None:
    means[key] = value if key not in means else (1 - _NEW) * means[key] + _NEW * value


def _n_characters(prompt: AnyPrompt) -> int:
    if isinstance(prompt, EchoPrompt):
        return len(prompt.text)
    if isinstance(prompt, EmbeddingPrompt):
        return sum(map(len, prompt.texts))
    return sum(len(m.content) for m in prompt.messages)
