"""Log-probabilities of replies, echoes of prompts and embeddings, in the forms that servers have, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from labeler.errors import ConfigurationError, EndpointError, UnreadableReply
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import MemoryLedger
from labeler.llm.patience import Patience
from labeler.llm.prices import Price, Prices
from labeler.llm.prompt import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Message, Prompt, Reply, TokenChoice
from labeler.records import Usage
from tests import stub_server as stub
from tests.stub_server import GOOD, Behaviour, Json, StubServer, embedding_of
from tests.waiting import HANGS

QUICK = Patience(timeout=HANGS, n_retries=1, first_wait=0.001, longest_wait=0.01, longest_total=1.0)
CHAT = Prompt("m", (Message("user", "hi"),), 50, top_logprobs=3)
ECHO = EchoPrompt("m", "the cat  sat", 2, "simulate")
EMBED = EmbeddingPrompt("m", ("a bad cab", "", "fed"))
READ = (
    TokenChoice("the", 0.0, ()),
    TokenChoice(" cat", -0.25, ((" cat", -0.25), ("?1", -3.0))),
    TokenChoice(" ", -0.25, ((" ", -0.25), ("?1", -3.0))),
    TokenChoice(" sat", -0.25, ((" sat", -0.25), ("?1", -3.0))),
)


def run(server: StubServer, ask: Callable[[OpenAILLM], Any], **options: Any) -> Any:
    async def asked() -> Any:
        async with OpenAILLM(server.base_url, patience=QUICK, **options) as llm:
            return await ask(llm)

    return asyncio.run(asked())


def refusing(*words: str) -> Callable[[int, Json], Behaviour]:
    """A server that answers 400 while a parameter of such a name is sent."""

    def behave(number: int, body: Json) -> Behaviour:
        sent = next((word for word in words if word in body), None)
        return GOOD if sent is None else stub.fails(400, f"{sent} is not supported")

    return behave


def test_a_reply_has_the_alternatives_at_each_of_its_tokens(stub_server: StubServer) -> None:
    ledger = MemoryLedger()
    bought: Reply = run(stub_server, lambda llm: llm.complete(CHAT), ledger=ledger)
    kept: Reply = run(stub_server, lambda llm: llm.complete(CHAT), ledger=ledger)
    assert bought.choices is not None
    assert "".join(c.token for c in bought.choices) == bought.text
    assert bought.choices[1] == TokenChoice(" am", -0.25, ((" am", -0.25), ("?1", -3.0), ("?2", -4.0)))
    assert kept == replace(bought, from_ledger=True)
    assert stub_server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 50,
            "logprobs": True,
            "top_logprobs": 3,
        }
    ]


def test_a_server_without_logprobs_gives_a_reply_without_choices(stub_server: StubServer) -> None:
    stub_server.behave = refusing("logprobs")
    reply: Reply = run(stub_server, lambda llm: llm.complete(CHAT))
    assert (reply.text, reply.choices) == ("I am a letter LLM.", None)
    assert len(stub_server.requests) == 2


def test_nobody_who_did_not_ask_gets_choices(stub_server: StubServer) -> None:
    reply: Reply = run(stub_server, lambda llm: llm.complete(replace(CHAT, top_logprobs=0)))
    assert reply.choices is None
    assert "logprobs" not in stub_server.bodies[0]


def test_an_echo_is_what_was_expected_at_each_token(stub_server: StubServer) -> None:
    ledger, prices = MemoryLedger(), Prices({"m": Price(1000.0, 0.0)})
    bought: Echo = run(stub_server, lambda llm: llm.echo(ECHO), ledger=ledger, prices=prices)
    kept: Echo = run(stub_server, lambda llm: llm.echo(ECHO), ledger=ledger, prices=prices)
    assert bought == Echo(READ, Usage(1, 4, 1, 0.004), "m-2026-01-01", from_ledger=False)
    assert kept == replace(bought, from_ledger=True)
    (request,) = stub_server.requests
    assert request.path == "/v1/completions"
    assert request.body == {
        "model": "m",
        "prompt": "the cat  sat",
        "temperature": 0.0,
        "max_tokens": 1,
        "echo": True,
        "logprobs": 2,
    }


def test_the_form_that_a_server_turns_down_is_not_sent_again(stub_server: StubServer) -> None:
    stub_server.behave = refusing("echo")
    prompts = [ECHO, replace(ECHO, text="the cat  sat down")]

    async def both(llm: OpenAILLM) -> list[Echo]:
        return [await llm.echo(p) for p in prompts]

    first, second = run(stub_server, both)
    assert first.tokens == READ
    assert [c.token for c in second.tokens] == ["the", " cat", " ", " sat", " down"]
    _, *later = stub_server.bodies
    assert len(later) == 2
    for body, prompt in zip(later, prompts, strict=True):
        assert body == {"model": "m", "prompt": prompt.text, "temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 2}


def test_tokens_that_the_server_wrote_are_no_part_of_the_echo_even_uncounted(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: Behaviour(change=lambda answer: answer | {"usage": None})
    echo: Echo = run(stub_server, lambda llm: llm.echo(ECHO))
    assert echo.tokens == READ
    assert echo.usage == Usage(1, 0, 0, None)


def _without_prompt(answer: Json) -> Json:
    answer["choices"][0] |= {"logprobs": None, "prompt_logprobs": None}
    return answer


def _only_what_it_wrote(answer: Json) -> Json:
    """As llama.cpp's server does."""
    answer["choices"][0]["logprobs"] = {
        "tokens": [" the"],
        "token_logprobs": [-0.1],
        "top_logprobs": [{" the": -0.1}],
        "text_offset": [12],
    }
    answer["choices"][0]["prompt_logprobs"] = None
    return answer | {"usage": None}


@pytest.mark.parametrize(
    "behave",
    [
        lambda number, body: Behaviour(change=_without_prompt),
        lambda number, body: Behaviour(change=_only_what_it_wrote),
        refusing("echo", "prompt_logprobs"),
    ],
)
def test_a_server_that_cannot_echo_is_named_and_not_asked_for_ever(stub_server: StubServer, behave: Any) -> None:
    stub_server.behave = behave
    with pytest.raises(ConfigurationError, match=r"/v1 gives no log-probabilities of a prompt for model 'm'.*another"):
        run(stub_server, lambda llm: llm.echo(ECHO))
    assert ["echo" in body for body in stub_server.bodies] == [True, False]


@pytest.mark.parametrize("behave", [lambda number, body: GOOD, refusing("encoding_format")])
def test_embeddings_come_in_the_order_of_their_texts(stub_server: StubServer, behave: Any) -> None:
    stub_server.behave = behave
    ledger = MemoryLedger()
    bought: Embeddings = run(stub_server, lambda llm: llm.embed(EMBED), ledger=ledger)
    kept: Embeddings = run(stub_server, lambda llm: llm.embed(EMBED), ledger=ledger)
    assert bought.vectors == tuple(tuple(embedding_of(text)) for text in EMBED.texts)
    assert bought.usage == Usage(1, 4, 0, None)
    assert kept == replace(bought, from_ledger=True)
    assert stub_server.n_paid == 1
    assert stub_server.requests[-1].path == "/v1/embeddings"


@pytest.mark.parametrize(
    "change",
    [lambda a: a | {"data": [{"index": 0}] * 3}, lambda a: a | {"data": [7]}, lambda a: {"error": "busy"}],
)
def test_embeddings_that_are_none_are_asked_for_again(stub_server: StubServer, change: Any) -> None:
    stub_server.behave = lambda number, body: Behaviour(change=change)
    with pytest.raises(EndpointError):
        run(stub_server, lambda llm: llm.embed(EMBED))
    assert len(stub_server.requests) == 2


def test_vectors_that_are_too_few_belong_to_no_text(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: Behaviour(change=lambda a: a | {"data": a["data"][:-1]})
    with pytest.raises(UnreadableReply, match="expected 3 vectors, got '2 vectors'") as caught:
        run(stub_server, lambda llm: llm.embed(EMBED))
    assert caught.value.usage == Usage(1, 4, 0, None)
