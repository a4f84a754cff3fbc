from __future__ import annotations

import asyncio

import pytest

from labeler.errors import EndpointError, LLMError, RefusedError, UnreadableReply
from labeler.llm.asking import ask
from labeler.llm.meter import Metered
from labeler.llm.prompt import Message, Prompt
from labeler.records import Usage
from tests.llm.metered import run_counted
from tests.llm.scripted import COST, ScriptedLLM

PROMPT = Prompt("m", (Message("system", "be brief"), Message("user", "a number?")), 10)


def number(text: str) -> int:
    if not text.strip().isdecimal():
        raise UnreadableReply("a whole number", text)
    return int(text)


def test_a_readable_reply_is_asked_for_once() -> None:
    llm = ScriptedLLM(["7"])
    assert run_counted(llm, lambda metered: ask(metered, PROMPT, number)) == (7, COST)
    assert llm.prompts == [PROMPT]


def test_an_unreadable_reply_is_asked_for_once_more_with_what_was_expected() -> None:
    llm = ScriptedLLM(["seven", "7"])
    assert run_counted(llm, lambda metered: ask(metered, PROMPT, number)) == (7, COST + COST)
    _, again = llm.prompts
    assert again.attempt == 2
    assert [m.role for m in again.messages] == ["system", "user"]
    assert again.messages[-1].content == (
        "a number?\n\nA first reply to this could not be read: expected a whole number. "
        "Reply in exactly the format asked for, and nothing else."
    )


@pytest.mark.parametrize(
    ("replies", "kind", "cost"),
    [
        (["seven", "eight"], UnreadableReply, COST + COST),
        (["seven", RefusedError("no", usage=COST)], RefusedError, COST + COST),
        (["seven", EndpointError("gone")], EndpointError, COST),
        ([RefusedError("no", usage=COST)], RefusedError, COST),
        ([UnreadableReply("a complete reply", "", usage=COST), "eight"], UnreadableReply, COST + COST),
    ],
)
def test_all_replies_of_a_failure_are_counted_once(
    replies: list[str | LLMError], kind: type[LLMError], cost: Usage
) -> None:
    llm = ScriptedLLM(replies)
    metered = Metered(llm)  # type: ignore[arg-type]
    with pytest.raises(LLMError) as caught:
        asyncio.run(ask(metered, PROMPT, number))
    assert type(caught.value) is kind
    assert metered.spent == cost
    assert len(llm.prompts) == len(replies)


def test_thinking_at_the_front_is_not_part_of_the_reply() -> None:
    assert asyncio.run(ask(ScriptedLLM(["<think>\n6?\nno, 7\n</think>\n\n7"]), PROMPT, number)) == 7
