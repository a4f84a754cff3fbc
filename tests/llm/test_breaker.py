"""What fails for all stops all, and one probe tells when it works again."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from labeler.errors import ConfigurationError, EndpointDownError, EndpointError, LLMError, RefusedError
from labeler.llm.breaker import Breaker
from labeler.llm.client import OpenAILLM
from labeler.llm.patience import Patience
from labeler.llm.prompt import Message, Prompt, Reply
from tests import stub_server as stub
from tests.stub_server import StubServer
from tests.waiting import HANGS

QUICK = Patience(timeout=HANGS, n_retries=1, first_wait=0.001, longest_wait=0.01, longest_total=1.0)
PROMPTS = [Prompt("m", (Message("user", f"prompt {i}"),), 50) for i in range(40)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, reached: bool = True) -> Breaker:
    made = Breaker(3, first_pause=10.0, longest_pause=30.0, clock=clock)
    if reached:
        made.reached("m")
    return made


def open_(made: Breaker) -> None:
    for _ in range(3):
        made.failed("m", EndpointError("500"))


def is_open(made: Breaker, model: str = "m") -> bool:
    try:
        made.check(model)
    except ConfigurationError:
        return True
    return False


def test_failures_in_a_row_open_it_and_an_answer_starts_anew() -> None:
    made = breaker(Clock())
    assert type(made.failed("m", EndpointError("500"))) is EndpointError
    made.failed("m", EndpointError("500"))
    made.answered("m")
    made.failed("m", EndpointError("500"))
    assert not is_open(made)
    made.failed("m", EndpointError("500"))
    last = made.failed("m", EndpointError("the last words"))
    assert isinstance(last, EndpointDownError)
    assert "the last 3 requests for 'm' failed, the last with: the last words" in str(last)
    assert is_open(made)
    assert not is_open(made, "another model")


def test_refusals_are_no_sign_of_a_bad_endpoint() -> None:
    made = breaker(Clock())
    for _ in range(10):
        assert isinstance(made.failed("m", RefusedError("no")), RefusedError)
    assert not is_open(made)


def test_one_failure_opens_it_where_nobody_ever_answered() -> None:
    made = breaker(Clock(), reached=False)
    assert isinstance(made.failed("m", EndpointError("cannot be reached")), EndpointDownError)
    assert is_open(made)


def test_a_revoked_key_opens_it_at_once_with_its_own_words() -> None:
    made = breaker(Clock())
    made.failed("m", ConfigurationError("key revoked"))
    with pytest.raises(ConfigurationError, match="key revoked"):
        made.check("m")


def test_after_a_pause_one_probe_passes_and_closes_it_if_answered() -> None:
    clock = Clock()
    made = breaker(clock)
    open_(made)
    clock.now = 9.9
    assert is_open(made)
    clock.now = 10.1
    assert [is_open(made) for _ in range(3)] == [False, True, True]
    made.answered("m")
    assert not is_open(made)


def test_pauses_grow_while_probes_fail() -> None:
    clock = Clock()
    made = breaker(clock)
    open_(made)
    for pause in (10.0, 20.0, 30.0, 30.0):
        clock.now += pause - 0.1
        assert is_open(made)
        clock.now += 0.2
        assert not is_open(made)
        made.failed("m", EndpointError("500"))


def ask_all(server: StubServer, concurrency: int) -> list[Reply | BaseException]:
    async def run() -> list[Reply | BaseException]:
        async with OpenAILLM(server.base_url, patience=QUICK, concurrency=concurrency) as llm:
            return await asyncio.gather(*map(llm.complete, PROMPTS), return_exceptions=True)

    return asyncio.run(run())


@pytest.mark.parametrize("failure", [stub.SERVER_ERROR, stub.busy("0.001"), stub.fails(400, "too long")])
@pytest.mark.parametrize("concurrency", [1, 16])
def test_an_endpoint_that_goes_down_fails_a_few_requests_and_stops_the_rest(
    stub_server: StubServer, failure: stub.Behaviour, concurrency: int
) -> None:
    stub_server.behave = lambda number, body: stub.GOOD if number <= 10 else failure
    answers = ask_all(stub_server, concurrency)
    failed = [a for a in answers if type(a) is EndpointError]
    stopped = [a for a in answers if isinstance(a, EndpointDownError)]
    assert sum(isinstance(a, Reply) for a in answers) == 10
    # One more where a good reply that was slow comes between two failures.
    assert 4 <= len(failed) <= (4 if concurrency == 1 else 8)
    assert len(failed) + len(stopped) == 30
    assert len(stub_server.requests) <= 10 + 2 * (5 + concurrency)


def test_a_revoked_key_stops_the_rest_without_asking(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: stub.GOOD if number <= 10 else stub.fails(401, "key revoked")
    answers = ask_all(stub_server, 1)
    assert [type(a) for a in answers] == [Reply] * 10 + [ConfigurationError] * 30
    assert len(stub_server.requests) == 11


def test_a_poisoned_prompt_fails_alone(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: (
        stub.SERVER_ERROR if body["messages"][0]["content"] == "prompt 3" else stub.GOOD
    )
    answers = ask_all(stub_server, 4)
    assert [i for i, a in enumerate(answers) if isinstance(a, LLMError)] == [3]
    assert type(answers[3]) is EndpointError


def test_what_is_on_its_way_when_a_run_stops_is_kept(stub_server: StubServer) -> None:
    """The pipeline cancels its other features when one raises; their replies are paid for all the same."""
    all_arrived = threading.Barrier(8, timeout=HANGS)
    stub_server.behave = lambda number, body: replace(
        stub.fails(401, "revoked") if body["messages"][0]["content"] == "prompt 0" else stub.slow(0.2),
        meeting=all_arrived,
    )

    async def run() -> int:
        async with OpenAILLM(stub_server.base_url, patience=QUICK) as llm:
            tasks = [asyncio.ensure_future(llm.complete(p)) for p in PROMPTS[:8]]
            await asyncio.wait(tasks[:1])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        again = OpenAILLM(stub_server.base_url, ledger=llm.ledger, patience=replace(QUICK, n_retries=0))
        async with again:
            replies = await asyncio.gather(*map(again.complete, PROMPTS[1:8]))
        return sum(r.from_ledger for r in replies)

    assert asyncio.run(run()) == stub_server.n_paid == 7
