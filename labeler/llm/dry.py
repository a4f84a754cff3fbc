"""An LLM that sends nothing: it answers from the ledger, and notes the requests that it would have sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from labeler.errors import LLMError
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import ledger_key
from labeler.llm.prompt import LLM, Answering, AnyPrompt, AnyReply
from labeler.llm.request_format import reply_of

T = TypeVar("T")

_QUIET = 20  # turns of the event loop after which waiting work has asked for all that it can


class DryLLM(Answering):
    """An LLM for one piece of work, such as a feature. `failures` are the errors of prompts that will get no reply."""

    def __init__(self, llm: OpenAILLM, failures: Mapping[str, LLMError]) -> None:
        self._llm = llm
        self._failures = failures
        self.missing: dict[str, AnyPrompt] = {}  # by key
        self._n_looking = 0

    async def ask(self, prompt: AnyPrompt) -> AnyReply:
        key = ledger_key(prompt)
        self._n_looking += 1
        try:
            stored = await self._llm.ledger.get(key)
        finally:
            self._n_looking -= 1
        if stored is not None:
            return reply_of(stored, prompt, self._llm.usage_of(stored, prompt), from_ledger=True)
        if (failure := self._failures.get(key)) is not None:
            raise failure
        self.missing[key] = prompt
        # An error would make the work go on with less. So it waits, until the attempt is given up.
        await asyncio.Event().wait()
        raise AssertionError("an event that is never set")

    async def attempt(self, work: Callable[[LLM], Awaitable[T]]) -> T | None:
        """Return the result of the work; None where it needs replies that are missing, which are then in `missing`."""
        task = asyncio.ensure_future(work(self))
        n_quiet = 0
        while not task.done() and n_quiet < _QUIET:
            await asyncio.sleep(0.001 if self._n_looking else 0)
            n_quiet = 0 if self._n_looking or not self.missing else n_quiet + 1
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait([task])
        return None
