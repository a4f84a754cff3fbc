"""Add up what the replies of an LLM cost, in one place."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from math import fsum
from typing import TypeVar

from labeler.errors import LLMError
from labeler.llm.prompt import LLM, AnyReply, Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply
from labeler.records import Usage

R = TypeVar("R", bound=AnyReply)


class Metered:
    """An LLM that counts the usage of its replies, and of failures that were paid for; it changes neither."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._bought: list[Usage] = []

    @property
    def spent(self) -> Usage:
        """Return the usage of everything so far. Replies come in any order, and the sum does not depend on it."""
        costs = [bought.cost_usd for bought in self._bought]
        return replace(
            sum(self._bought, Usage()), cost_usd=None if None in costs else fsum(cost or 0.0 for cost in costs)
        )

    async def complete(self, prompt: Prompt) -> Reply:
        return await self._counted(self._llm.complete(prompt))

    async def echo(self, prompt: EchoPrompt) -> Echo:
        return await self._counted(self._llm.echo(prompt))

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        return await self._counted(self._llm.embed(prompt))

    async def _counted(self, asked: Awaitable[R]) -> R:
        try:
            reply = await asked
        except LLMError as error:
            if error.usage is not None:
                self._bought.append(error.usage)
            raise
        self._bought.append(reply.usage)
        return reply
