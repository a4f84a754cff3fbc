"""The whole pipeline against an endpoint over HTTP, through the real client, when it answers well and when it does not."""

from __future__ import annotations

import asyncio
import json
import random
import zlib
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import BudgetError, ConfigurationError
from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.batches import label_in_batches
from labeler.label_sets.missing import label_missing
from labeler.llm.batch import Batches
from labeler.llm.breaker import Breaker
from labeler.llm.budget import Budget
from labeler.llm.client import OpenAILLM
from labeler.llm.patience import Patience
from labeler.recipe import ContextsConfig, Recipe
from labeler.records import LabeledFeature, State
from labeler.store import Store, open_store
from labeler.store.base.batches import SqlJournal
from labeler.store.base.ledger import SqlLedger
from tests import stub_server as stub
from tests.planted import N_FEATURES
from tests.stub_server import Behaviour, StubServer
from tests.waiting import HANGS

SHORT = Patience(timeout=HANGS, n_retries=3, first_wait=0.01, longest_wait=0.02, longest_total=2.0)
RECIPE = replace(Recipe.from_names("openai:letters"), contexts=ContextsConfig(held_out_sampled=5))


def label(
    evidence: Path, server: StubServer, store: Store, features: range = range(N_FEATURES), **options: Any
) -> dict[int, LabeledFeature]:
    """Label what is missing; returns what this run worked on."""
    folder, results = EvidenceFolder(evidence), dict[int, LabeledFeature]()

    def keep(result: LabeledFeature) -> None:
        results[result.feature_index] = result

    async def run() -> None:
        label_set = store.label_set_for(folder.manifest, str(evidence), RECIPE)
        async with OpenAILLM(server.base_url, ledger=SqlLedger(store), patience=SHORT, **options) as llm:
            await label_missing(folder, features, RECIPE, llm, store, label_set, on_result=keep)

    asyncio.run(run())
    return results


def in_batches(evidence: Path, server: StubServer, store: Store, **options: Any) -> None:
    folder = EvidenceFolder(evidence)

    async def run() -> None:
        label_set = store.label_set_for(folder.manifest, str(evidence), RECIPE)
        async with OpenAILLM(server.base_url, ledger=SqlLedger(store), patience=SHORT) as llm:
            batches = Batches(llm, SqlJournal(store), poll_seconds=0.001, **options)
            await label_in_batches(folder, range(N_FEATURES), RECIPE, llm, batches, store, label_set)

    asyncio.run(run())


def rows(store: Store) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "created_at"} for row in store.rows(store.newest_label_set().id)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "labeler.db"))


def test_planted_features_are_found_by_an_llm(planted_evidence: Path, store: Store, stub_server: StubServer) -> None:
    results = label(planted_evidence, stub_server, store)
    counts = Counter(r.state for r in results.values())
    assert counts == {State.LABELED: N_FEATURES - 2, State.SILENT: 1, State.RARE: 1}
    for feature in (0, 1, 6, 12):
        simulation = results[feature].score("simulation")
        assert simulation is not None
        assert simulation.value is not None
        assert simulation.value > 0.95
        assert simulation.baseline_token_lookup is not None
    label_text = results[0].label
    assert label_text is not None
    assert "`Q`" in label_text.text
    assert label_text.table is None
    usage = results[0].usage
    assert (usage.requests, usage.cost_usd) == (4, None), (
        "an explanation, 25 contexts in three requests, at no known price"
    )
    assert usage.tokens_in > 500


def test_the_simulator_is_asked_about_the_label_and_never_shown_activations(
    planted_evidence: Path, store: Store, stub_server: StubServer
) -> None:
    label(planted_evidence, stub_server, store, range(1))
    explain, *simulate = [r["messages"][0]["content"] for r in stub_server.bodies]
    assert "<<Q|" in explain
    assert len(simulate) == 3
    assert not any("<<" in prompt or "|10" in prompt for prompt in simulate)
    shown = {line for line in explain.splitlines() if "<<" in line}
    plain = {line.replace("<<", "").replace(">>", "") for line in shown}
    assert not any(line and line in prompt for line in plain for prompt in simulate)


def test_a_wrong_label_scores_low(planted_evidence: Path, store: Store, stub_server: StubServer) -> None:
    def wrong(number: int, body: dict[str, Any]) -> Behaviour:
        return stub.says("LABEL: `k` 10") if "LABEL:" in body["messages"][0]["content"] else stub.GOOD

    stub_server.behave = wrong
    results = label(planted_evidence, stub_server, store, range(3))
    for result in results.values():
        simulation = result.score("simulation")
        assert simulation is not None
        assert simulation.value is None or simulation.value < 0.15
        assert simulation.value is not None or simulation.reason


CATALOGUE = {
    "malformed": stub.MALFORMED,
    "wrong length": stub.WRONG_LENGTH,
    "out of range": stub.OUT_OF_RANGE,
    "truncated": stub.TRUNCATED,
    "refusal": stub.REFUSAL,
    "filter": stub.CONTENT_FILTER,
    "no choices": stub.NO_CHOICES,
    "empty": stub.EMPTY,
    "null": stub.NULL_CONTENT,
    "not json": stub.NOT_JSON,
    "cut": stub.CUT,
    "busy": stub.busy("0.02"),
    "error": stub.SERVER_ERROR,
    "good": stub.GOOD,
}


def random_behaviour(seed: int, share_good: float = 0.6) -> Any:
    """By a request's text and how often it has come, not by the order of arrival, which no two runs have alike."""
    n_asked = Counter[str]()

    def behave(number: int, body: dict[str, Any]) -> Behaviour:
        asked = json.dumps(body["messages"])
        n_asked[asked] += 1
        rng = random.Random(f"{seed} {n_asked[asked]} {asked}")
        if rng.random() < share_good:
            return stub.GOOD
        chosen = rng.choice(sorted(CATALOGUE))
        is_explanation = "LABEL:" in body["messages"][0]["content"]
        if is_explanation and chosen in ("wrong length", "out of range"):
            return stub.MALFORMED
        return CATALOGUE[chosen]

    return behave


def test_bad_answers_never_become_results(planted_evidence: Path, store: Store, stub_server: StubServer) -> None:
    stub_server.behave = random_behaviour(1)
    results = label(planted_evidence, stub_server, store)
    assert sorted(results) == list(range(N_FEATURES))
    states = Counter(r.state for r in results.values())
    assert states[State.FAILED] > 0
    assert states[State.LABELED] > 0
    for result in results.values():
        if result.state is State.FAILED:
            assert result.reason
            assert result.label is None
            assert result.scores == ()
        for simulation in result.simulations:
            assert (simulation.predicted is None) == bool(simulation.reason)
        main = result.score("simulation")
        if main is not None:
            used = [s for s in result.simulations if s.context.source in ("top", "random")]
            assert main.n == sum(s.predicted is not None for s in used)
            assert main.n_failed == sum(s.predicted is None for s in used)


@pytest.mark.parametrize(
    "name", ["malformed", "refusal", "filter", "no choices", "empty", "truncated", "not json", "error", "null"]
)
def test_an_endpoint_that_only_answers_badly_labels_nothing(
    planted_evidence: Path, store: Store, stub_server: StubServer, name: str
) -> None:
    stub_server.behave = lambda number, body: CATALOGUE[name]
    results = label(planted_evidence, stub_server, store, range(2))
    assert {r.state for r in results.values()} == {State.FAILED}
    assert all(r.reason for r in results.values())


@pytest.mark.parametrize(
    ("name", "n_good"),
    [
        ("cut", 0),
        ("no model", 0),
        ("not json", 0),
        ("error", 90),
        ("busy", 90),
        ("no money", 90),
        ("revoked", 90),
        ("too long", 90),
    ],
)
def test_an_endpoint_that_is_of_no_use_stops_the_run_and_fails_next_to_nothing(
    planted_evidence: Path, store: Store, stub_server: StubServer, name: str, n_good: int
) -> None:
    behaviour = {
        **CATALOGUE,
        "no money": stub.NO_QUOTA,
        "revoked": stub.fails(401, "key revoked"),
        "no model": stub.NO_MODEL,
        "too long": stub.fails(400, "maximum context length is 10 tokens"),
    }[name]
    stub_server.behave = lambda number, body: stub.GOOD if number <= n_good else behaviour
    with pytest.raises(ConfigurationError):
        label(planted_evidence, stub_server, store)
    states = Counter(r["state"] for r in rows(store))
    assert states["failed"] <= 5
    assert (states["labeled"] > 0) == (n_good > 0)


def test_nothing_paid_for_is_asked_again(planted_evidence: Path, store: Store, stub_server: StubServer) -> None:
    stub_server.behave = random_behaviour(2)
    label(planted_evidence, stub_server, store)
    asked = {json.dumps(r.body, sort_keys=True) for r in stub_server.requests}
    n_paid = stub_server.n_paid
    kept = [r for r in rows(store) if r["state"] != "failed"]
    failed = {r["feature_index"] for r in rows(store) if r["state"] == "failed"}
    paid_requests = stub_server.requests
    stub_server.requests = []
    stub_server.behave = lambda number, body: stub.GOOD
    again = label(planted_evidence, stub_server, store)
    assert set(again) == failed, "the rerun worked on something that was done"
    assert [r for r in rows(store) if r["feature_index"] not in failed] == kept
    # Only what never arrived (or a repair question after it) may be asked: no key of the ledger is bought twice.
    repeated = [r for r in stub_server.requests if json.dumps(r.body, sort_keys=True) in asked]
    unpaid = len(paid_requests) - n_paid
    assert len(repeated) <= unpaid
    third = len(stub_server.requests)
    label(planted_evidence, stub_server, store)
    assert stub_server.requests[third:] == []


def test_a_spent_budget_ends_the_run_and_another_one_continues(
    planted_evidence: Path, store: Store, stub_server: StubServer
) -> None:
    with pytest.raises(BudgetError, match="of 35,000 tokens are spent"):
        label(planted_evidence, stub_server, store, budget=Budget(tokens=35_000))
    n_first = stub_server.n_paid
    states = Counter(r["state"] for r in rows(store))
    assert states["labeled"] > 0
    assert states["failed"] == 0
    label(planted_evidence, stub_server, store, budget=Budget(tokens=1_000_000))
    assert Counter(r["state"] for r in rows(store))["labeled"] == N_FEATURES - 2
    bodies = [json.dumps(body, sort_keys=True) for body in stub_server.bodies]
    assert len(set(bodies)) == len(bodies) == stub_server.n_paid > n_first


def test_batches_make_the_same_label_set(planted_evidence: Path, tmp_path: Path, stub_server: StubServer) -> None:
    live, batched = open_store(str(tmp_path / "live.db")), open_store(str(tmp_path / "batched.db"))
    label(planted_evidence, stub_server, live)
    n_needed = stub_server.n_paid
    stub_server.batches.n_looks = 3
    in_batches(planted_evidence, stub_server, batched)
    assert rows(batched) == rows(live)
    by_batch = [r for r in stub_server.requests[n_needed:] if "batch" in r.headers]
    assert stub_server.n_paid == 2 * n_needed, "each request once"
    assert len(by_batch) == n_needed - 2, "an explanation and a simulation are asked live"
    assert len(stub_server.batches.batches) == 2


def test_batches_against_the_whole_catalogue(planted_evidence: Path, tmp_path: Path, stub_server: StubServer) -> None:
    """Which prompts meet which bad answer is decided by their text, so both ways meet the same."""

    def behave(number: int, body: dict[str, Any]) -> Behaviour:
        return random_behaviour(zlib.crc32(json.dumps(body["messages"]).encode()))(number, body)

    stub_server.behave = behave
    live, batched = open_store(str(tmp_path / "live.db")), open_store(str(tmp_path / "batched.db"))
    label(planted_evidence, stub_server, live, breaker=Breaker(10_000))
    in_batches(planted_evidence, stub_server, batched)
    lived, came = ({r["feature_index"]: r for r in rows(s)} for s in (live, batched))
    same = [f for f in lived if lived[f] == came[f]]
    assert len(same) > N_FEATURES / 2
    for feature in set(lived) - set(same):
        # Answers that never were any, over and over, have other words in a batch.
        assert lived[feature]["state"] == came[feature]["state"]


def test_batches_killed_at_any_step_end_alike(planted_evidence: Path, tmp_path: Path, stub_server: StubServer) -> None:
    """Each run dies at its next call of the Batch API; all runs together submit every batch once."""
    live, batched = open_store(str(tmp_path / "live.db")), open_store(str(tmp_path / "batched.db"))
    label(planted_evidence, stub_server, live)
    n_needed, stub_server.batches.n_looks = stub_server.n_paid, 4

    class Killed(Exception):  # noqa: N818
        pass

    for n_calls in range(30):
        calls = iter(range(n_calls))

        async def sleep(seconds: float, calls: Any = calls) -> None:
            if next(calls, None) is None:
                raise Killed

        try:
            in_batches(planted_evidence, stub_server, batched, sleep=sleep)
            break
        except Killed:
            continue
    assert n_calls > 1
    assert rows(batched) == rows(live)
    assert stub_server.n_paid - n_needed == n_needed
    assert len(stub_server.batches.batches) == 2


def test_results_do_not_depend_on_how_replies_are_interleaved(planted_evidence: Path, tmp_path: Path) -> None:
    with (
        StubServer() as fast,
        StubServer(lambda number, body: stub.slow(random.Random(number).random() * 0.02)) as uneven,
    ):
        one, two = open_store(str(tmp_path / "1.db")), open_store(str(tmp_path / "2.db"))
        label(planted_evidence, fast, one)
        label(planted_evidence, uneven, two)
    assert rows(one) == rows(two)


def test_usage_is_what_the_server_counted(planted_evidence: Path, store: Store, stub_server: StubServer) -> None:
    results = label(planted_evidence, stub_server, store, range(4))
    total = sum((asdict(r.usage)["tokens_in"] for r in results.values()), 0)
    words = sum(len(m["content"].split()) for b in stub_server.bodies for m in b["messages"])
    assert total == words
    assert store.summary(store.newest_label_set().id).tokens_in == words
