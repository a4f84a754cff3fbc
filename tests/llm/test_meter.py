from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from labeler.errors import EndpointError, LLMError, RefusedError
from labeler.llm import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply
from labeler.llm.meter import Metered
from labeler.records import Usage
from tests.llm.scripted import COST


class Priced:
    """An LLM whose replies cost what a test wrote down, whichever kind of prompt is sent."""

    def __init__(self, costs: list[Usage | LLMError]) -> None:
        self._costs = list(costs)

    def _next(self) -> Usage:
        cost = self._costs.pop(0)
        if isinstance(cost, LLMError):
            raise cost
        return cost

    async def complete(self, prompt: Prompt) -> Reply:
        return Reply("yes", "stop", self._next(), "m")

    async def echo(self, prompt: EchoPrompt) -> Echo:
        return Echo((), self._next(), "m")

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        return Embeddings((), self._next(), "m")


async def ask_all(metered: Metered) -> None:
    await asyncio.gather(
        metered.complete(Prompt("m", (), 1)),
        metered.echo(EchoPrompt("m", "a", 1)),
        metered.embed(EmbeddingPrompt("m", ("a",))),
        return_exceptions=True,
    )


def spent(*costs: Usage | LLMError) -> Usage:
    metered = Metered(Priced(list(costs)))
    asyncio.run(ask_all(metered))
    return metered.spent


def test_replies_of_all_kinds_and_failures_that_were_paid_for_are_counted() -> None:
    assert Metered(Priced([])).spent == Usage()
    assert spent(COST, COST, COST) == COST + COST + COST
    assert spent(COST, RefusedError("no", usage=COST), EndpointError("gone")) == COST + COST


def test_a_failure_passes_through_as_it_is() -> None:
    error = RefusedError("no", usage=COST)
    with pytest.raises(RefusedError) as caught:
        asyncio.run(Metered(Priced([error])).complete(Prompt("m", (), 1)))
    assert (caught.value, error.usage) == (error, COST)


def test_the_cost_does_not_depend_on_the_order_of_the_replies() -> None:
    costs = [Usage(1, 1, 1, cost) for cost in (0.1, 0.2, 0.3)]
    assert len({spent(*ordered) for ordered in permutations(costs)}) == 1


def test_one_unknown_cost_makes_the_sum_unknown() -> None:
    assert spent(COST, Usage(1, 3, 5, None), COST) == Usage(3, 203, 25, None)
