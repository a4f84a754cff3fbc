"""Ask and read: a reply in the wrong format is asked for once more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from labeler.errors import ConfigurationError, LLMError, UnreadableReply
from labeler.llm.prompt import LLM, Message, Prompt, Reply

T = TypeVar("T")

# Servers without a reasoning parser leave a model's thinking at the front of its reply.
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


async def ask(llm: LLM, prompt: Prompt, parse: Callable[[str], T]) -> T:
    """Return the result of `parse` on the reply's text; see `ask_reply`."""
    return await ask_reply(llm, prompt, lambda reply: parse(reply.text))


async def ask_reply(llm: LLM, prompt: Prompt, read: Callable[[Reply], T]) -> T:
    """Return the result of `read` on the reply. Thinking is cut from the reply's text.

    `read` raises UnreadableReply where the text does not follow the format. Then the prompt is sent a second time with
    the expected format spelled out, as for a reply that is empty or cut off.
    """
    try:
        return await _ask_once(llm, prompt, read)
    except UnreadableReply as first:
        again = repaired(prompt, first.expected)
    return await _ask_once(llm, again, read)


async def _ask_once(llm: LLM, prompt: Prompt, read: Callable[[Reply], T]) -> T:
    reply = await llm.complete(prompt)
    return read(replace(reply, text=_THINKING.sub("", reply.text)))


def repaired(prompt: Prompt, expected: str) -> Prompt:
    """Return the prompt again with a sentence on the fault of the last reply.

    The sentence joins the last message, since some chat templates refuse two messages of one role in a row. The bad
    reply is not repeated, since it would be paid for again.
    """
    *before, last = prompt.messages
    content = (
        f"{last.content}\n\nA first reply to this could not be read: expected {expected}. "
        "Reply in exactly the format asked for, and nothing else."
    )
    return replace(prompt, messages=(*before, Message(last.role, content)), attempt=prompt.attempt + 1)


async def settled(answers: Iterable[Awaitable[T]]) -> list[T | LLMError]:
    """Await all answers at the same time; one that failed is returned as its LLMError.

    An error that ends the run, or one that does not come from an LLM, is raised once all answers have ended. The
    requests in flight are paid for, and so must reach the ledger.
    """
    ended: list[T | LLMError] = []
    for result in await asyncio.gather(*answers, return_exceptions=True):
        if isinstance(result, ConfigurationError) or (
            isinstance(result, BaseException) and not isinstance(result, LLMError)
        ):
            raise result
        ended.append(result)
    return ended
