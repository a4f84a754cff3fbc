"""Ask and read: a reply that does not follow the format is asked for once more, and the cost of both is kept."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from labeler.errors import ConfigurationError, LLMError, UnreadableReply
from labeler.llm.prompt import LLM, Message, Prompt, Reply
from labeler.records import Usage

T = TypeVar("T")

# Servers without a reasoning parser leave a model's thinking at the front of its reply.
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


async def ask(llm: LLM, prompt: Prompt, parse: Callable[[str], T]) -> tuple[T, Usage]:
    """What `parse` makes of the reply's text, and what all replies cost; as `ask_reply`."""
    return await ask_reply(llm, prompt, lambda reply: parse(reply.text))


async def ask_reply(llm: LLM, prompt: Prompt, read: Callable[[Reply], T]) -> tuple[T, Usage]:
    """What `read` makes of the reply, whose text is without thinking, and what all replies cost.

    `read` raises UnreadableReply where the text does not follow the format; then, and for a reply that is empty or
    cut off, the prompt is asked a second time with the expected format spelled out. Raises LLMError with the cost of
    both replies.
    """
    try:
        return await _ask_once(llm, prompt, read)
    except UnreadableReply as first:
        spent, again = first.usage or Usage(), repaired(prompt, first.expected)
    try:
        value, usage = await _ask_once(llm, again, read)
    except LLMError as second:
        second.usage = spent + (second.usage or Usage())
        raise
    return value, spent + usage


async def _ask_once(llm: LLM, prompt: Prompt, read: Callable[[Reply], T]) -> tuple[T, Usage]:
    reply = await llm.complete(prompt)
    try:
        return read(replace(reply, text=_THINKING.sub("", reply.text))), reply.usage
    except UnreadableReply as error:
        error.usage = reply.usage
        raise


def repaired(prompt: Prompt, expected: str) -> Prompt:
    """The prompt again, saying what was wrong with the last reply.

    The sentence joins the last message, since some chat templates refuse two messages of one role in a row; the bad
    reply is not repeated, since it would be paid for again.
    """
    *before, last = prompt.messages
    content = (
        f"{last.content}\n\nA first reply to this could not be read: expected {expected}. "
        "Reply in exactly the format asked for, and nothing else."
    )
    return replace(prompt, messages=(*before, Message(last.role, content)), attempt=prompt.attempt + 1)


async def settled(answers: Iterable[Awaitable[T]]) -> list[T | LLMError]:
    """All answers, asked for at the same time, with an LLMError where one has failed.

    An error that ends the run, and any that is none of an LLM, is raised once all have ended: what is in flight is paid
    for, and so is to reach the ledger.
    """
    ended: list[T | LLMError] = []
    for result in await asyncio.gather(*answers, return_exceptions=True):
        if isinstance(result, ConfigurationError) or (
            isinstance(result, BaseException) and not isinstance(result, LLMError)
        ):
            raise result
        ended.append(result)
    return ended
