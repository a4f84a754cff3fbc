"""What a worker may still buy for a job: never more than its budget, whatever the endpoint says or leaves out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeler.errors import BudgetError
from labeler.recipe import Recipe
from labeler.records import Usage
from labeler.settings import Settings
from labeler.store.jobs.states import Lease
from labeler.terms import JobKind
from tests.results import labeled, manifest
from workers.resources import Resources

RECIPE = Recipe.from_names("openai:gpt-5-mini")
UNCOUNTED = Usage(1, 0, 0, None)  # of a reply without a token count


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Resources]:
    worker = Resources(Settings(database=str(tmp_path / "labeler.db"), api_key="none"))
    yield worker
    worker.close()


def second_block(worker: Resources, first_cost: Usage, **budget: float) -> Lease:
    """Of a job whose first block is done, and has bought this."""
    evidence = worker.store.add_evidence(manifest(), "/evidence")
    worker.jobs.submit(evidence, RECIPE, "0-31", **budget)  # type: ignore[arg-type]
    first = worker.blocks.claim(JobKind.LABEL, "w")
    assert first is not None
    worker.blocks.save(first, [labeled(0, usage=first_cost)])
    worker.blocks.finish(first)
    second = worker.blocks.claim(JobKind.LABEL, "w")
    assert second is not None
    return second


def test_the_next_block_may_buy_what_is_left(worker: Resources) -> None:
    lease = second_block(worker, Usage(2, 900, 50, 0.75), budget_usd=1.0, budget_tokens=1000)
    llm = worker.llm(lease, RECIPE)
    assert llm is not None
    asyncio.run(llm.budget.reserve(Usage(1, 30, 20, 0.25)))
    for more in (Usage(1, 1, 0, 0.0), Usage(1, 0, 0, 0.01)):
        llm.budget.waits = False
        with pytest.raises(BudgetError):
            asyncio.run(llm.budget.reserve(more))


@pytest.mark.parametrize("budget", [{"budget_usd": 1.0}, {"budget_tokens": 1000}])
def test_replies_that_nobody_counted_are_not_free(worker: Resources, budget: dict[str, float]) -> None:
    lease = second_block(worker, UNCOUNTED, **budget)
    with pytest.raises(BudgetError, match="without a token count"):
        worker.llm(lease, RECIPE)


def test_a_model_without_a_price_leaves_a_budget_of_tokens_as_it_is(worker: Resources) -> None:
    lease = second_block(worker, Usage(2, 900, 50, None), budget_tokens=1000)
    assert worker.llm(lease, RECIPE) is not None


def test_a_budget_that_is_spent_buys_nothing(worker: Resources) -> None:
    lease = second_block(worker, Usage(2, 900, 100, 0.75), budget_tokens=1000)
    with pytest.raises(BudgetError, match="is spent"):
        worker.llm(lease, RECIPE)
