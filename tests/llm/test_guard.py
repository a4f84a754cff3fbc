"""The last look before a request: what raises there sends nothing, and holds nothing against the endpoint."""

from __future__ import annotations

import asyncio

import pytest

from labeler.errors import TakenOverError
from labeler.llm.client import OpenAILLM
from labeler.llm.guard import guarded_by
from labeler.llm.prompt import Message, Prompt
from tests import stub_server as stub
from tests.stub_server import StubServer


def prompt(text: str) -> Prompt:
    return Prompt("m", (Message("user", text),), 10, 0.0)


def test_a_guard_that_raises_sends_nothing_and_what_is_in_the_ledger_needs_none(stub_server: StubServer) -> None:
    async def no_longer_ours() -> None:
        raise TakenOverError("others have it")

    async def run() -> None:
        async with OpenAILLM(stub_server.base_url) as llm:
            first = await llm.complete(prompt("one"))
            with guarded_by(no_longer_ours):
                assert (await llm.complete(prompt("one"))).text == first.text
                for _ in range(10):
                    with pytest.raises(TakenOverError):
                        await asyncio.create_task(llm.complete(prompt("two")))
            assert len(stub_server.requests) == 1
            await llm.complete(prompt("two"))
            assert llm.spent.requests == 2

    asyncio.run(run())


def test_a_guard_is_asked_again_before_each_further_attempt(stub_server: StubServer) -> None:
    asked = 0

    async def once() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise TakenOverError("others have it")

    stub_server.behave = lambda number, body: stub.busy("0.01")

    async def run() -> None:
        async with OpenAILLM(stub_server.base_url) as llm:
            with guarded_by(once), pytest.raises(TakenOverError):
                await llm.complete(prompt("one"))

    asyncio.run(run())
    assert len(stub_server.requests) == 1
