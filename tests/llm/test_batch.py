"""The Batch API against a server that has one: nothing lost, nothing twice, at half the price."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from labeler.errors import BudgetError, ConfigurationError, EndpointDownError, EndpointError, LLMError, RefusedError
from labeler.llm import batch as batch_module
from labeler.llm.batch import Batches, BatchRecord, Progress
from labeler.llm.budget import Budget
from labeler.llm.client import OpenAILLM
from labeler.llm.dry import DryLLM
from labeler.llm.ledger import MemoryLedger, StoredReply, ledger_key
from labeler.llm.patience import Patience
from labeler.llm.prices import Price, Prices
from labeler.llm.prompt import LLM, AnyPrompt, EmbeddingPrompt, Message, Prompt, Reply
from labeler.records import Usage
from tests import stub_server as stub
from tests.stub_server import GOOD, Behaviour, Json, StubServer
from tests.waiting import HANGS

QUICK = Patience(timeout=HANGS, n_retries=1, first_wait=0.001, longest_wait=0.01, longest_total=1.0)
PRICES = Prices({"m": Price(1000.0, 2000.0)})


class MemoryJournal:
    def __init__(self) -> None:
        self.records: dict[str, BatchRecord] = {}

    def save(self, record: BatchRecord) -> None:
        self.records[record.id] = record

    def open(self, endpoint: str) -> list[BatchRecord]:
        return [r for r in self.records.values() if r.endpoint == endpoint and r.state != "collected"]


def prompts(n: int, purpose: str = "explain") -> list[AnyPrompt]:
    return [Prompt("m", (Message("user", f"{purpose} {i}"),), 50, 0.0, purpose=purpose) for i in range(n)]


def run(
    server: StubServer,
    work: Callable[[Batches], Awaitable[Any]],
    ledger: MemoryLedger | None = None,
    journal: MemoryJournal | None = None,
    budget: Budget | None = None,
    **options: Any,
) -> OpenAILLM:
    async def all_of_it() -> OpenAILLM:
        async with OpenAILLM(server.base_url, ledger=ledger, prices=PRICES, patience=QUICK, budget=budget) as llm:
            await work(Batches(llm, journal or MemoryJournal(), poll_seconds=0.001, **options))
        return llm

    return asyncio.run(all_of_it())


def sends(asked: Sequence[AnyPrompt]) -> Callable[[Batches], Awaitable[None]]:
    async def work(batches: Batches) -> None:
        for prompt in asked:
            await batches.add(ledger_key(prompt), prompt)
        await batches.submit()
        await batches.collect()

    return work


async def replies(llm: OpenAILLM, asked: Sequence[AnyPrompt]) -> list[Any]:
    return await asyncio.gather(*map(llm.ask, asked), return_exceptions=True)


def kept(server: StubServer, asked: Sequence[AnyPrompt], ledger: MemoryLedger) -> list[Any]:
    """What a client finds in the ledger; anything it has to ask for is a failure of the test."""

    async def read() -> list[Any]:
        async with OpenAILLM("http://127.0.0.1:9/v1", ledger=ledger, prices=PRICES, patience=QUICK) as llm:
            return await replies(llm, asked)

    return asyncio.run(read())


def test_batches_give_the_replies_of_the_live_way_at_half_the_price(stub_server: StubServer) -> None:
    ledger, asked = MemoryLedger(), [*prompts(5), *prompts(3, "simulate"), EmbeddingPrompt("m", ("a bad cab",))]
    asked.append(EmbeddingPrompt("m", ("fed",)))
    llm = run(stub_server, sends(asked), ledger)
    assert {(r.path, "batch" in r.headers) for r in stub_server.requests} == {
        ("/v1/chat/completions", False),
        ("/v1/chat/completions", True),
        ("/v1/embeddings", False),
        ("/v1/embeddings", True),
    }
    assert len(stub_server.requests) == len(asked), "one of each kind is asked live, and no prompt twice"
    assert len(stub_server.batches.batches) == 3

    by_batch = kept(stub_server, asked, ledger)
    live = MemoryLedger()
    stub_server.requests.clear()

    async def ask_live() -> list[Any]:
        async with OpenAILLM(stub_server.base_url, ledger=live, prices=PRICES) as client:
            return await replies(client, asked)

    by_hand = asyncio.run(ask_live())
    first_of_kind = {0, 5, 8}
    for i, (batched, lived) in enumerate(zip(by_batch, by_hand, strict=True)):
        factor = 1.0 if i in first_of_kind else 0.5
        cost = lived.usage.cost_usd * factor
        assert batched == replace(lived, from_ledger=True, usage=replace(lived.usage, cost_usd=pytest.approx(cost)))
    total = sum((r.usage for r in by_batch), Usage())
    assert llm.spent == replace(total, cost_usd=pytest.approx(total.cost_usd))


def test_lines_are_as_the_api_wants_them(stub_server: StubServer) -> None:
    asked = prompts(3)
    run(stub_server, sends(asked))
    lines = [json.loads(line) for line in stub_server.batches.files["file-0"].splitlines()]
    assert [line["custom_id"] for line in lines] == [ledger_key(p) for p in asked[1:]]
    assert lines[0] | {"custom_id": ""} == {
        "custom_id": "",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [{"role": "user", "content": "explain 1"}],
            "max_tokens": 50,
            "temperature": 0.0,
        },
    }


@pytest.mark.parametrize(("limits", "n_batches"), [({"max_requests": 4}, 3), ({"max_bytes": 700}, 4), ({}, 1)])
def test_files_stay_within_the_limits(stub_server: StubServer, limits: dict[str, int], n_batches: int) -> None:
    ledger, asked = MemoryLedger(), prompts(11)
    stub_server.batches.max_requests = limits.get("max_requests", 50_000)
    run(stub_server, sends(asked), ledger, **limits)
    assert len(stub_server.batches.batches) == n_batches
    assert len(ledger) == 11
    inputs = [stub_server.batches.files[b["input_file_id"]] for b in stub_server.batches.batches.values()]
    assert all(len(content) <= limits.get("max_bytes", 10**9) for content in inputs)


def test_texts_to_embed_count_one_by_one(stub_server: StubServer) -> None:
    asked: list[AnyPrompt] = [EmbeddingPrompt("m", (f"a{i}", "b", "c")) for i in range(5)]
    run(stub_server, sends(asked), max_requests=6)
    assert len(stub_server.batches.batches) == 2


def test_a_killed_process_collects_what_it_had_submitted(stub_server: StubServer) -> None:
    ledger, journal, asked = MemoryLedger(), MemoryJournal(), prompts(6)

    async def only_submits(batches: Batches) -> None:
        for prompt in asked:
            await batches.add(ledger_key(prompt), prompt)
        await batches.submit()

    run(stub_server, only_submits, ledger, journal)
    assert len(ledger) == 1
    seen: list[tuple[int, int]] = []

    def show(progress: Progress) -> None:
        seen.append((progress.n_answered, progress.n_requests))

    run(stub_server, lambda batches: batches.collect(), ledger, journal, on_progress=show)
    assert len(ledger) == 6
    assert seen == [(0, 5), (5, 5)]
    assert not journal.open(f"{stub_server.base_url}")
    run(stub_server, lambda batches: batches.collect(), ledger, journal)
    assert len(stub_server.requests) == 6


@pytest.mark.parametrize("n_others", [0, 5])
def test_a_batch_whose_making_was_not_heard_is_found_again(stub_server: StubServer, n_others: int) -> None:
    """Killed between the making of a batch and the note of it; other batches lie above it in the list."""
    ledger, journal, asked = MemoryLedger(), MemoryJournal(), prompts(4)

    async def only_submits(batches: Batches) -> None:
        for prompt in asked:
            await batches.add(ledger_key(prompt), prompt)
        await batches.submit()

    run(stub_server, only_submits, ledger, journal)
    for i in range(n_others):
        run(stub_server, sends(prompts(2, f"other-{i}")))
    (record,) = journal.records.values()
    journal.save(replace(record, batch_id=None, state="submitting"))
    run(stub_server, lambda batches: batches.collect(), ledger, journal)
    assert len(ledger) == 4
    assert len(stub_server.batches.batches) == 1 + n_others


def test_a_batch_that_was_never_made_is_forgotten(stub_server: StubServer) -> None:
    journal = MemoryJournal()
    journal.save(BatchRecord("a" * 32, stub_server.base_url, "/chat/completions", "m", "explain", 3))
    run(stub_server, lambda batches: batches.collect(), journal=journal)
    assert journal.records["a" * 32].state == "collected"


def test_a_server_that_hangs_up_while_it_makes_a_batch_makes_one(stub_server: StubServer) -> None:
    ledger = MemoryLedger()
    stub_server.batches.deaf = True
    run(stub_server, sends(prompts(5)), ledger)
    assert len(ledger) == 5
    assert len(stub_server.batches.batches) == 1


class SeenLedger(MemoryLedger):
    """Keeps no reply, and counts how many of those that were put are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = list[weakref.ref[StoredReply]]()
        self.n_alive, self.n_put = 0, 0

    async def put(self, key: str, reply: StoredReply) -> None:
        self._seen.append(weakref.ref(reply))
        self.n_put += 1
        self.n_alive = max(self.n_alive, sum(ref() is not None for ref in self._seen))


def test_replies_are_kept_in_groups_and_let_go(stub_server: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "_PUT_AT_ONCE", 4)
    ledger, asked = SeenLedger(), prompts(30)
    run(stub_server, sends(asked), ledger)
    assert ledger.n_put == len(asked)
    assert ledger.n_alive <= 2 * 4


def test_what_expires_is_what_is_missing(stub_server: StubServer) -> None:
    ledger, asked = MemoryLedger(), prompts(8)
    stub_server.batches.ends_as, stub_server.batches.n_done = "expired", 3
    run(stub_server, sends(asked), ledger)
    assert [await_key in ledger._replies for await_key in map(ledger_key, asked)] == [True] * 4 + [False] * 4


@pytest.mark.parametrize(("ends_as", "n_done"), [("expired", 0), ("cancelled", 0), ("failed", None)])
def test_batches_that_bring_nothing_are_not_sent_for_ever(
    stub_server: StubServer, ends_as: str, n_done: int | None
) -> None:
    stub_server.batches.ends_as, stub_server.batches.n_done = ends_as, n_done
    with pytest.raises(
        EndpointDownError, match=rf"no request of the last batches was answered: batch batch_0 {ends_as}"
    ):
        run(stub_server, sends(prompts(3)))


def test_failures_on_a_line_are_the_failures_of_the_live_way(stub_server: StubServer) -> None:
    def behave(number: int, body: Json) -> Behaviour:
        words = body["messages"][0]["content"]
        return {
            "explain 1": stub.fails(400, "maximum context length is 4096"),
            "explain 2": stub.fails(400, "filtered", code="content_filter"),
            "explain 3": stub.REFUSAL,
            "explain 4": stub.TRUNCATED,
            "explain 5": stub.SERVER_ERROR,
        }.get(words, GOOD)

    stub_server.behave = behave
    ledger, asked, found = MemoryLedger(), prompts(7), dict[str, LLMError]()

    async def thrice(batches: Batches) -> None:
        for _ in range(3):
            for prompt in asked:
                key = ledger_key(prompt)
                if await ledger.get(key) is None and key not in batches.failures:
                    await batches.add(key, prompt)
            await batches.submit()
            try:
                await batches.collect()
            except EndpointDownError:
                continue
        found.update(batches.failures)

    run(stub_server, thrice, ledger)
    keys = list(map(ledger_key, asked))
    assert {keys.index(key): type(error) for key, error in found.items()} == {
        1: EndpointError,
        2: RefusedError,
        5: EndpointError,
    }
    assert "maximum context length" in str(found[keys[1]])
    assert [keys.index(k) for k in ledger._replies] == [0, 6, 4, 3], "paid for, though 3 and 4 are no answers"


def test_a_parameter_turned_down_on_a_line_is_left_out_of_the_next_batch(stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: (
        stub.fails(400, "no temperature") if "temperature" in body and number > 1 else GOOD
    )
    ledger, asked = MemoryLedger(), prompts(4)

    async def twice(batches: Batches) -> None:
        await sends(asked)(batches)
        await sends(asked[1:])(batches)
        assert batches.failures == {}

    run(stub_server, twice, ledger)
    assert len(ledger) == 4
    assert ["temperature" in body for body in stub_server.bodies] == [True] * 4 + [False] * 3


@pytest.mark.parametrize(
    ("problem", "hint"), [(stub.fails(401, "bad key"), "OPENAI_API_KEY"), (stub.NO_MODEL, "model's name 'm'")]
)
def test_a_wrong_key_or_model_is_an_error_before_anything_is_submitted(
    stub_server: StubServer, problem: Behaviour, hint: str
) -> None:
    stub_server.behave = lambda number, body: problem
    with pytest.raises(ConfigurationError, match=hint):
        run(stub_server, sends(prompts(5)))
    assert stub_server.batches.files == {}


def test_an_endpoint_without_batches_says_so(stub_server: StubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = stub.fails(404, "not found")
    monkeypatch.setattr(
        stub_server.batches, "post", lambda *request: (missing, stub.answer_of(missing, "/v1/files", {}))
    )
    with pytest.raises(ConfigurationError, match="may have no Batch API: leave out --batch"):
        run(stub_server, sends(prompts(2)))


def test_a_budget_holds_for_batches_too(stub_server: StubServer) -> None:
    ledger, asked = MemoryLedger(), prompts(50)
    budget = Budget(tokens=150)

    async def until_it_ends(batches: Batches) -> None:
        async def add_all() -> None:
            for prompt in asked:
                await batches.add(ledger_key(prompt), prompt)

        with pytest.raises(BudgetError, match="150 tokens"):
            await add_all()
        await batches.submit()
        await batches.collect()

    spent = run(stub_server, until_it_ends, ledger, budget=budget).spent
    assert 4 < len(ledger) < 50
    assert spent.tokens_in + spent.tokens_out <= 150


def test_work_on_a_dry_llm_asks_for_all_it_can_and_goes_no_further(stub_server: StubServer) -> None:
    first, second, third = prompts(3)
    steps: list[str] = []

    async def work(llm: LLM) -> list[str]:
        assert isinstance(first, Prompt)
        assert isinstance(second, Prompt)
        assert isinstance(third, Prompt)
        steps.append("begun")
        both = await asyncio.gather(llm.complete(first), llm.complete(second), return_exceptions=True)
        steps.append("between")
        last = await llm.complete(third)
        return [r.text if isinstance(r, Reply) else "" for r in (*both, last)]

    async def run_it() -> None:
        async with OpenAILLM(stub_server.base_url) as llm:
            for missing, known in ([{first, second}, []], [{second}, [first]], [{third}, [second]], [set(), [third]]):
                await replies(llm, known)
                dry = DryLLM(llm, {})
                result = await dry.attempt(work)
                assert dry.missing == {ledger_key(p): p for p in missing}
            assert result == ["I am a letter LLM."] * 3

    asyncio.run(run_it())
    assert steps.count("between") == 2


def test_a_prompt_that_failed_for_good_fails_in_a_dry_run(stub_server: StubServer) -> None:
    (prompt,) = prompts(1)

    async def run_it() -> None:
        async with OpenAILLM(stub_server.base_url) as llm:
            dry = DryLLM(llm, {ledger_key(prompt): RefusedError("no")})
            with pytest.raises(RefusedError):
                await dry.attempt(lambda dry_llm: dry_llm.complete(prompt))  # type: ignore[arg-type]

    asyncio.run(run_it())
