"""Labels embedded over HTTP: each text once, whatever fails on the way."""

from __future__ import annotations

import asyncio
import base64
import struct
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import LLMError, UnreadableReply
from labeler.label_sets.embed import EmbeddingPlan, embed_labels, plan_embeddings
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import MemoryLedger
from labeler.llm.patience import Patience
from labeler.llm.prices import Price, Prices
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from labeler.store.base import columns
from labeler.store.label_sets import embeddings
from labeler.store.label_sets.embeddings import parts_to_embed
from tests import stub_server as stub
from tests.results import labeled, manifest
from tests.stub_server import Behaviour, StubServer
from tests.waiting import HANGS

N = 50
HASTE = Patience(timeout=HANGS, n_retries=0, n_retries_unanswered=0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for module in (columns, embeddings):
        monkeypatch.setattr(module, "PART", 16)
    store = open_store(str(tmp_path / "labeler.db"))
    label_set = store.label_set_for(manifest(), "/evidence", Recipe.from_names("openai:m"))
    store.save(label_set.id, [labeled(i, 0.5, f"abc {i}") for i in range(N - 1)] + [labeled(N - 1, 0.5, "abc 0")])
    return store


def embed(store: Store, server: StubServer, texts_per_request: int = 5) -> tuple[int, list[int]]:
    done: list[int] = []

    async def run() -> int:
        async with OpenAILLM(server.base_url, ledger=MemoryLedger(0), patience=HASTE) as llm:
            return await embed_labels(store, 1, "places", llm, texts_per_request, done.append)

    return asyncio.run(run()), done


def test_a_plan_counts_what_is_bought(store: Store, stub_server: StubServer) -> None:
    prices = Prices({"places": Price(10.0, 0.0)})
    plan = plan_embeddings(store, [1], "places", 5, prices)
    assert (plan.texts, plan.requests) == (N, 4 + 4 + 4 + 1)  # parts of 16, 16, 16 and 2 features
    assert plan.cost_usd == pytest.approx(plan.tokens_in * 10 / 1e6)
    assert plan_embeddings(store, [1], "another", 5, Prices()).cost_usd is None
    assert stub_server.requests == []
    n, done = embed(store, stub_server)
    # "abc 0" is in the first part and in the last, and by then it is known.
    assert (n, sum(done), len(stub_server.requests)) == (N - 1, N - 1, 13)
    assert plan_embeddings(store, [1], "places", 5, prices) == EmbeddingPlan(0, 0, 0, 0.0)


def test_a_run_that_failed_asks_only_for_what_is_missing(store: Store, stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: stub.SERVER_ERROR if "abc 20" in body["input"] else stub.GOOD
    with pytest.raises(LLMError):
        embed(store, stub_server)
    n_kept = sum(len(b["input"]) for b in stub_server.bodies if "abc 20" not in b["input"])
    assert n_kept == 16 + 11, "what was asked beside the failure is kept"
    stub_server.behave = lambda number, body: stub.GOOD
    assert embed(store, stub_server)[0] == N - 1 - n_kept
    assert parts_to_embed(store, 1, "places") == []


def test_a_revoked_key_ends_the_run(store: Store, stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: stub.fails(401, "invalid key", code="invalid_api_key")
    with pytest.raises(LLMError, match="invalid key"):
        embed(store, stub_server, 16)
    assert len(stub_server.requests) == 1


def _one_short(answer: Any) -> Any:
    return answer | {"data": answer["data"][1:]}


def _not_a_number(answer: Any) -> Any:
    worthless = base64.b64encode(struct.pack("<8f", *[float("nan")] * 8)).decode()
    return answer | {"data": [{**item, "embedding": worthless} for item in answer["data"]]}


def _of_two_lengths(answer: Any) -> Any:
    answer["data"][0]["embedding"] = base64.b64encode(struct.pack("<2f", 1, 2)).decode()
    return answer


@pytest.mark.parametrize("change", [_one_short, _not_a_number, _of_two_lengths])
def test_vectors_that_are_none_are_refused(store: Store, stub_server: StubServer, change: Any) -> None:
    stub_server.behave = lambda number, body: Behaviour(change=change)
    with pytest.raises(UnreadableReply, match="vectors"):
        embed(store, stub_server)
    assert parts_to_embed(store, 1, "places") == [0, 1, 2, 3]
