"""The whole catalogue of good and bad endpoints, over HTTP, through the real client."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import (
    ConfigurationError,
    EndpointDownError,
    EndpointError,
    InputError,
    LLMError,
    RefusedError,
    UnreadableReply,
)
from labeler.llm.client import OpenAILLM
from labeler.llm.exchange import Retry
from labeler.llm.ledger import MemoryLedger
from labeler.llm.patience import Patience
from labeler.llm.prices import Price, Prices
from labeler.llm.prompt import Message, Prompt, Reply
from labeler.llm.request_format import REASONING_TOKENS
from labeler.records import Usage
from labeler.settings import Settings
from tests import stub_server as stub
from tests.stub_server import GOOD, Behaviour, Json, StubServer
from tests.waiting import HANGS

PROMPT = Prompt("gpt-x", (Message("user", "three short words"),), 50, 0.0, purpose="explain")
QUICK = Patience(timeout=HANGS, n_retries=2, first_wait=0.001, longest_wait=0.01, longest_total=1.0)
REPLY = "I am a letter LLM."


def client(server: StubServer | str, **options: Any) -> OpenAILLM:
    options.setdefault("patience", QUICK)
    return OpenAILLM(server if isinstance(server, str) else server.base_url, **options)


def ask_all(llm: OpenAILLM, prompts: Sequence[Prompt]) -> list[Reply | BaseException]:
    async def run() -> list[Reply | BaseException]:
        async with llm:
            return await asyncio.gather(*map(llm.complete, prompts), return_exceptions=True)

    return asyncio.run(run())


def ask(llm: OpenAILLM, prompt: Prompt = PROMPT) -> Reply:
    (answer,) = ask_all(llm, [prompt])
    if isinstance(answer, BaseException):
        raise answer
    return answer


def failure(llm: OpenAILLM, prompt: Prompt = PROMPT) -> LLMError:
    with pytest.raises(LLMError) as caught:
        ask(llm, prompt)
    return caught.value


def first(*behaviours: Behaviour) -> Callable[[int, Json], Behaviour]:
    """These, one a request; good ever after."""
    return lambda number, body: behaviours[number - 1] if number <= len(behaviours) else GOOD


def always(behaviour: Behaviour) -> Callable[[int, Json], Behaviour]:
    return lambda number, body: behaviour


def different(n: int) -> list[Prompt]:
    return [replace(PROMPT, messages=(Message("user", f"prompt {i}"),)) for i in range(n)]


class Naps:
    """A sleep that takes no time and remembers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def test_a_reply_comes_with_its_text_model_and_cost(stub_server: StubServer) -> None:
    llm = client(stub_server, prices=Prices({"gpt-x": Price(1000.0, 2000.0)}))
    reply = ask(llm)
    assert reply == Reply(REPLY, "stop", Usage(1, 3, 5, 0.013), "gpt-x-2026-01-01", from_ledger=False)
    assert llm.spent == reply.usage


def test_the_request_is_what_the_prompt_says(stub_server: StubServer) -> None:
    schema = {"type": "object"}
    ask(client(stub_server, api_key="sk-secret-key"), replace(PROMPT, json_schema=schema))
    (request,) = stub_server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk-secret-key"
    assert request.body == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "three short words"}],
        "max_tokens": 50,
        "temperature": 0.0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "explain", "schema": schema}},
    }


def test_what_a_prompt_leaves_open_is_not_sent(stub_server: StubServer) -> None:
    ask(client(stub_server), replace(PROMPT, temperature=None))
    assert set(stub_server.bodies[0]) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize("passing", [stub.SERVER_ERROR, stub.busy(), stub.CUT, stub.NOT_JSON, stub.NOT_A_COMPLETION])
def test_what_may_pass_is_tried_again(stub_server: StubServer, passing: Behaviour) -> None:
    stub_server.behave = first(passing, passing)
    assert ask(client(stub_server)).text == REPLY
    assert len(stub_server.requests) == 3
    assert stub_server.n_paid == 1


@pytest.mark.parametrize("passing", [stub.SERVER_ERROR, stub.busy(), stub.CUT, stub.NOT_JSON, stub.NOT_A_COMPLETION])
def test_patience_ends_with_an_error_that_names_the_endpoint(stub_server: StubServer, passing: Behaviour) -> None:
    stub_server.behave = always(passing)
    error = failure(client(stub_server))
    # Nobody has ever answered there when all were cut off: the address may be wrong, and that stops a run.
    assert type(error) is (EndpointDownError if passing is stub.CUT else EndpointError)
    assert stub_server.base_url in str(error)
    assert "gave up after 3 requests" in str(error)
    assert error.usage is None
    assert len(stub_server.requests) == 3


def test_a_slow_endpoint_times_out(stub_server: StubServer) -> None:
    stub_server.behave = always(stub.slow(HANGS))
    error = failure(client(stub_server, patience=replace(QUICK, timeout=0.05, n_retries=1)))
    assert isinstance(error, EndpointDownError)
    assert "no complete answer within 0.05 s" in str(error)
    # On a busy machine a request may be given up before it has arrived there.
    assert "gave up after 2 requests" in str(error)


def test_nobody_at_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    naps = Naps()
    llm = client(address, sleep=naps)
    errors = ask_all(llm, [PROMPT])
    assert isinstance(errors[0], EndpointDownError)
    assert address in str(errors[0])
    assert "cannot be reached" in str(errors[0])
    assert len(naps.seconds) == 2


def test_an_address_where_nobody_ever_answered_is_waited_for_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    naps = Naps()
    errors = ask_all(client(address, sleep=naps, concurrency=1), different(5))
    assert all(isinstance(e, EndpointDownError) for e in errors)
    assert len(naps.seconds) == 2


def test_an_endpoint_that_has_answered_gets_full_patience_each_time(stub_server: StubServer) -> None:
    stub_server.behave = always(stub.SERVER_ERROR)
    ask_all(client(stub_server, concurrency=1), different(3))
    assert len(stub_server.requests) == 9


@pytest.mark.parametrize(
    ("busy", "least", "most"),
    [
        (stub.busy("7"), 7.0, 8.0),
        (stub.busy("0.5"), 0.5, 1.5),
        (stub.busy(retry_after_ms="2500"), 2.5, 3.5),
        (stub.busy("Thu, 01 Jan 2026 00:00:30 GMT"), 30.0, 31.0),
        (stub.busy("Thu, 01 Jan 2015 00:00:00 GMT"), 0.0, 1.0),
        (stub.busy("in a while"), 0.5, 1.0),
        (stub.busy("nan"), 0.5, 1.0),
        (stub.busy(), 0.5, 1.0),
        (stub.fails(503, "warming up", {"retry-after": "9"}), 9.0, 10.0),
    ],
)
def test_the_endpoint_says_how_long_to_wait(
    stub_server: StubServer, busy: Behaviour, least: float, most: float
) -> None:
    naps, new_year = Naps(), 1767225600.0
    stub_server.behave = first(busy)
    ask(client(stub_server, patience=Patience(), sleep=naps, clock=lambda: new_year))
    (nap,) = naps.seconds
    assert least <= nap <= most


def test_retry_after_is_really_waited(stub_server: StubServer) -> None:
    stub_server.behave = first(stub.busy(retry_after_ms="120"))
    ask(client(stub_server))
    refused, answered = stub_server.requests
    assert answered.at - refused.at >= 0.12


def test_waits_double_up_to_the_longest(stub_server: StubServer) -> None:
    naps = Naps()
    stub_server.behave = always(stub.SERVER_ERROR)
    failure(client(stub_server, patience=Patience(n_retries=5, first_wait=1.0, longest_wait=4.0), sleep=naps))
    assert len(naps.seconds) == 5
    assert all(whole / 2 <= nap <= whole for nap, whole in zip(naps.seconds, [1, 2, 4, 4, 4], strict=True))


def test_each_wait_is_told_with_its_reason_and_its_end(stub_server: StubServer) -> None:
    naps, told = Naps(), list[Retry]()
    patience = Patience(n_retries=4, n_retries_unanswered=4, first_wait=1.0, longest_wait=4.0)
    stub_server.behave = always(stub.fails(500, "the server is not well"))
    failure(client(stub_server, patience=patience, sleep=naps, on_retry=told.append))
    assert [retry.wait for retry in told] == naps.seconds
    assert all("answered 500: the server is not well" in retry.why for retry in told)
    # No more than this is waited from each retry on, and each wait is told.
    left = [sum(naps.seconds[i:]) for i in range(4)]
    assert all(waits <= retry.longest <= 2 * waits for waits, retry in zip(left, told, strict=True))


def test_an_endpoint_that_asks_for_too_much_is_not_waited_for(stub_server: StubServer) -> None:
    naps = Naps()
    stub_server.behave = always(stub.busy("3600"))
    error = failure(client(stub_server, patience=Patience(longest_total=300.0), sleep=naps))
    assert isinstance(error, EndpointError)
    assert "asks for 3600 s more" in str(error) or "asks for 3601 s more" in str(error)
    assert naps.seconds == []
    assert len(stub_server.requests) == 1


@pytest.mark.parametrize(
    ("hopeless", "hint"),
    [
        (stub.fails(401, "bad key"), "OPENAI_API_KEY"),
        (stub.fails(403, "not yours"), "OPENAI_API_KEY"),
        (stub.NO_MODEL, "model's name 'gpt-x'"),
        (stub.fails(400, "no such model", param="model"), "model's name 'gpt-x'"),
        (stub.NO_QUOTA, "no credit left"),
        (stub.fails(402, "pay first"), "no credit left"),
    ],
)
def test_what_asking_again_cannot_help_stops_at_once(stub_server: StubServer, hopeless: Behaviour, hint: str) -> None:
    stub_server.behave = always(hopeless)
    error = failure(client(stub_server))
    assert isinstance(error, ConfigurationError)
    assert hint in str(error)
    assert len(stub_server.requests) == 1


def test_another_400_fails_this_request_alone(stub_server: StubServer) -> None:
    stub_server.behave = always(stub.fails(400, "this model's maximum context length is 4096 tokens"))
    error = failure(client(stub_server))
    assert isinstance(error, EndpointError)
    assert "maximum context length is 4096" in str(error)
    assert len(stub_server.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "kind", "says"),
    [
        (stub.REFUSAL, RefusedError, "I cannot help with that."),
        (stub.CONTENT_FILTER, RefusedError, "content_filter"),
        (stub.NO_CHOICES, UnreadableReply, "a reply with text"),
        (stub.EMPTY, UnreadableReply, "a reply with text"),
        (stub.NULL_CONTENT, UnreadableReply, "a reply with text"),
        (stub.TRUNCATED, UnreadableReply, "a complete reply within 50 tokens"),
    ],
)
def test_a_paid_reply_that_is_no_answer_has_a_cost_and_is_not_bought_again(
    stub_server: StubServer, behaviour: Behaviour, kind: type[LLMError], says: str
) -> None:
    stub_server.behave = always(behaviour)
    ledger, prices = MemoryLedger(), Prices({"gpt-x": Price(1000.0, 0.0)})
    llm = client(stub_server, ledger=ledger, prices=prices)
    bought = failure(llm)
    kept = failure(client(stub_server, ledger=ledger, prices=prices))
    for error in (bought, kept):
        assert type(error) is kind
        assert says in str(error)
        assert error.usage == Usage(1, 3, 5, 0.003)
    assert llm.spent == Usage(1, 3, 5, 0.003)
    assert stub_server.n_paid == len(stub_server.requests) == 1


def test_a_refusal_by_status_is_a_refusal(stub_server: StubServer) -> None:
    stub_server.behave = always(stub.fails(400, "the prompt was filtered", code="content_filter"))
    assert isinstance(failure(client(stub_server)), RefusedError)


def test_nothing_paid_for_is_asked_again_after_a_restart(stub_server: StubServer) -> None:
    ledger, prompts = MemoryLedger(), different(4)
    stub_server.behave = lambda number, body: stub.NO_QUOTA if "prompt 3" in str(body) else GOOD
    ask_all(client(stub_server, ledger=ledger, concurrency=1), prompts)
    assert stub_server.n_paid == 3
    stub_server.behave = always(GOOD)
    resumed = client(stub_server, ledger=ledger)
    replies = ask_all(resumed, prompts)
    undisturbed = ask_all(client(stub_server), prompts)
    assert [r.from_ledger for r in replies if isinstance(r, Reply)] == [True, True, True, False]
    assert [replace(r, from_ledger=False) for r in replies if isinstance(r, Reply)] == undisturbed
    assert resumed.spent.requests == 1
    assert stub_server.n_paid == 3 + 1 + 4


def test_equal_prompts_at_the_same_time_are_one_purchase(stub_server: StubServer) -> None:
    stub_server.behave = always(stub.slow(0.05))
    replies = ask_all(client(stub_server), [PROMPT] * 5)
    assert {r.text for r in replies if isinstance(r, Reply)} == {REPLY}
    assert stub_server.n_paid == 1


def test_a_second_attempt_is_another_purchase(stub_server: StubServer) -> None:
    ask_all(client(stub_server), [PROMPT, replace(PROMPT, attempt=2)])
    assert stub_server.n_paid == 2


def test_concurrency_is_used_and_never_exceeded(stub_server: StubServer) -> None:
    stub_server.behave = always(Behaviour(meeting=threading.Barrier(3, timeout=HANGS)))
    replies = ask_all(client(stub_server, concurrency=3), different(9))
    assert all(isinstance(r, Reply) for r in replies)
    assert stub_server.most_at_once == 3


@pytest.mark.parametrize(
    ("message", "param", "gone", "instead"),
    [
        ("'response_format' of type 'json_schema' is not supported", "response_format", "response_format", None),
        ("json_schema: unknown field", None, "response_format", None),
        ("Unsupported value: 'temperature' does not support 0.0", "temperature", "temperature", None),
        (
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_tokens",
            "max_tokens",
            "max_completion_tokens",
        ),
    ],
)
def test_a_parameter_that_a_model_turns_down_is_left_out_from_then_on(
    stub_server: StubServer,
    caplog: pytest.LogCaptureFixture,
    message: str,
    param: str | None,
    gone: str,
    instead: str | None,
) -> None:
    stub_server.behave = lambda number, body: stub.fails(400, message, param=param) if gone in body else GOOD
    prompts = [replace(p, json_schema={"type": "object"}) for p in different(3)]
    replies = ask_all(client(stub_server, concurrency=1), prompts)
    assert all(isinstance(r, Reply) for r in replies)
    sent, *later = stub_server.bodies
    assert len(later) == 3
    for body in later:
        assert set(body) == set(sent) - {gone} | ({instead} if instead else set())
        assert instead is None or body[instead] == 50 + REASONING_TOKENS
    assert [r.levelno for r in caplog.records if r.name == "labeler.llm.sender"] == [logging.WARNING]


def test_parameters_are_turned_down_together_and_by_requests_in_flight(stub_server: StubServer) -> None:
    def reasoning_model(number: int, body: Json) -> Behaviour:
        for name, text in (("max_tokens", "use max_completion_tokens"), ("temperature", "temperature is fixed")):
            if name in body:
                return stub.fails(400, text, param=name)
        return stub.slow(0.01)

    stub_server.behave = reasoning_model
    replies = ask_all(client(stub_server), different(6))
    assert all(isinstance(r, Reply) for r in replies)
    assert stub_server.n_paid == 6


def test_a_turned_down_parameter_is_kept_for_other_models(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: (
        stub.fails(400, "no temperature") if body["model"] == "thinker" and "temperature" in body else GOOD
    )
    ask_all(client(stub_server, concurrency=1), [replace(PROMPT, model="thinker"), PROMPT])
    assert "temperature" in stub_server.bodies[-1]


def test_a_400_that_goes_on_after_the_fallback_ends(stub_server: StubServer) -> None:
    stub_server.behave = always(stub.fails(400, "temperature, response_format: all wrong"))
    error = failure(client(stub_server), replace(PROMPT, json_schema={}))
    assert isinstance(error, EndpointError)
    assert len(stub_server.requests) == 3


@pytest.mark.parametrize(
    "behaviour",
    [
        stub.fails(401, "Incorrect API key provided: sk-very-secret-key"),
        stub.fails(500, "key sk-very-secret-key broke us"),
        Behaviour(raw="your key sk-very-secret-key, not as JSON"),
        stub.CUT,
    ],
)
def test_the_key_is_in_no_message_and_no_log(
    stub_server: StubServer, caplog: pytest.LogCaptureFixture, behaviour: Behaviour
) -> None:
    caplog.set_level(logging.DEBUG)
    stub_server.behave = always(behaviour)
    error = failure(client(stub_server, api_key="sk-very-secret-key"))
    assert "sk-very-secret-key" not in "".join(traceback.format_exception(error))
    assert "sk-very-secret-key" not in caplog.text
    assert stub_server.requests[0].headers["authorization"] == "Bearer sk-very-secret-key"


def test_secrets_in_the_address_are_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpenAILLM("https://user:password@llm.example/v1?key=sk-secret")
    assert "https://llm.example/v1 needs a key" in str(caught.value)
    assert "password" not in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_the_hosted_api_needs_a_key() -> None:
    with pytest.raises(ConfigurationError, match=r"api\.openai\.com.*OPENAI_API_KEY"):
        OpenAILLM()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "/v1"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(InputError, match="http"):
        OpenAILLM(url, "sk-some-key")


def test_settings_make_a_client_with_prices(stub_server: StubServer, tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text('[models."gpt-x"]\ninput = 1000\noutput = 0\n')
    settings = Settings(base_url=stub_server.base_url, api_key="sk-from-settings", prices=table)
    assert ask(OpenAILLM.from_settings(settings, ledger=MemoryLedger())).usage.cost_usd == pytest.approx(0.003)
    assert stub_server.requests[0].headers["authorization"] == "Bearer sk-from-settings"


def test_an_unknown_price_and_an_uncounted_reply_cost_an_unknown_amount(stub_server: StubServer) -> None:
    assert ask(client(stub_server)).usage == Usage(1, 3, 5, None)
    stub_server.behave = always(Behaviour(change=lambda completion: completion | {"usage": None}))
    free = Prices({"gpt-x": Price(0.0, 0.0)})
    assert ask(client(stub_server, prices=free)).usage == Usage(1, 0, 0, None)


def test_a_model_listed_as_free_costs_nothing(stub_server: StubServer) -> None:
    assert ask(client(stub_server, prices=Prices({"gpt-x": Price(0.0, 0.0)}))).usage.cost_usd == 0.0
