"""A budget is not exceeded, and ends a run with what was bought kept."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from labeler.errors import BudgetError, InputError
from labeler.llm.budget import Budget
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import MemoryLedger
from labeler.llm.prices import Price, Prices
from labeler.llm.prompt import Message, Prompt, Reply
from labeler.records import Usage
from tests import stub_server as stub
from tests.stub_server import Behaviour, StubServer

PRICES = Prices({"m": Price(1_000_000.0, 1_000_000.0)})  # a dollar a token
PROMPTS = [Prompt("m", (Message("user", f"prompt {i}, ten words long or so it is said"),), 6) for i in range(20)]
ONE = 10 + 5  # tokens of one of them and its reply, as the stub counts


def ask_all(
    server: StubServer, budget: Budget, ledger: MemoryLedger, concurrency: int = 4
) -> tuple[list[Reply | BaseException], Usage]:
    async def run() -> tuple[list[Reply | BaseException], Usage]:
        async with OpenAILLM(
            server.base_url, ledger=ledger, prices=PRICES, budget=budget, concurrency=concurrency
        ) as llm:
            return await asyncio.gather(*map(llm.complete, PROMPTS), return_exceptions=True), llm.spent

    return asyncio.run(run())


@pytest.mark.parametrize("concurrency", [1, 16])
@pytest.mark.parametrize(("budget", "what"), [({"tokens": 100}, "100 tokens"), ({"usd": 100.0}, "USD")])
def test_a_budget_is_used_and_not_exceeded(
    stub_server: StubServer, budget: dict[str, float], what: str, concurrency: int
) -> None:
    stub_server.behave = lambda number, body: stub.slow(0.01)
    ledger = MemoryLedger()
    answers, spent = ask_all(stub_server, Budget(**budget), ledger, concurrency)  # type: ignore[arg-type]
    bought = [a for a in answers if isinstance(a, Reply)]
    errors = [a for a in answers if not isinstance(a, Reply)]
    assert all(isinstance(e, BudgetError) for e in errors)
    assert what in str(errors[0])
    assert len(bought) == stub_server.n_paid == len(ledger) == 100 // ONE
    assert spent.tokens_in + spent.tokens_out == ONE * len(bought)


def test_what_is_in_the_ledger_costs_nothing(stub_server: StubServer) -> None:
    ledger = MemoryLedger()
    ask_all(stub_server, Budget(), ledger)
    answers, spent = ask_all(stub_server, Budget(tokens=1), ledger)
    assert all(isinstance(a, Reply) and a.from_ledger for a in answers)
    assert spent == Usage()


def test_an_endpoint_that_does_not_count_is_counted_for(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: Behaviour(change=lambda answer: answer | {"usage": None})
    answers, _ = ask_all(stub_server, Budget(tokens=200), MemoryLedger())
    assert 5 < sum(isinstance(a, Reply) for a in answers) < 15


def test_what_failed_gives_its_reservation_back() -> None:
    async def run() -> None:
        budget, request = Budget(tokens=10), Usage(1, 6, 2)
        for _ in range(3):
            await budget.reserve(request)
            budget.settle(request, None)
        await budget.reserve(request)
        waiting = asyncio.ensure_future(budget.reserve(replace(request, tokens_in=3)))
        await asyncio.sleep(0)
        assert not waiting.done(), "5 more do not fit beside 8, and may when those have settled"
        budget.settle(request, Usage(1, 4, 1))
        await waiting

    asyncio.run(run())


@pytest.mark.parametrize("budget", [{"usd": 0.0}, {"tokens": 0}, {"usd": -1.0}, {"usd": float("nan")}])
def test_a_budget_of_nothing_is_refused(budget: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"--budget-(usd|tokens) .*: a budget is a number above 0"):
        Budget(**budget)  # type: ignore[arg-type]


def test_dollars_need_prices() -> None:
    with pytest.raises(InputError, match=r"price of a, b is not known.*LABELER_PRICES.*--budget-tokens"):
        Budget(usd=1.0).check_prices(PRICES, ["b", "m", "a"])
    Budget(usd=1.0).check_prices(PRICES, ["m"])
    Budget(tokens=1).check_prices(PRICES, ["a"])
