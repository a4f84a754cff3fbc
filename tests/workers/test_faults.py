"""What may go wrong with real workers, a real queue and a real endpoint; each ends with every feature in its right state."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import Any

import pytest
from celery import Celery

from api.metrics import Metrics
from labeler.recipe import Recipe
from labeler.store.jobs.jobs import Jobs
from labeler.terms import JobState
from tests import stub_server as stub
from tests.planted import N_FEATURES
from tests.stub_server import Behaviour
from tests.waiting import HANGS
from tests.workers.conftest import LEASE_SECONDS, Service, until

ALL_DONE = {"labeled": N_FEATURES - 2, "silent": 1, "rare": 1}


def killed(pid: int) -> bool:
    """Whether there was something to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_celery_sees_the_workers(service: Service) -> None:
    """What `celery inspect` and Flower show: remote control is on."""
    with Celery(broker=service.redis.url) as celery:
        until(lambda: bool(celery.control.ping(timeout=0.5)))
        (worker, queues), *others = celery.control.inspect(timeout=HANGS, limit=1).active_queues().items()
    assert worker.startswith("label-")
    assert [queue["name"] for queue in queues] == ["label"]
    assert others == []


def test_workers_that_are_killed_again_and_again_lose_and_repeat_nothing(
    service: Service, undisturbed: list[dict[str, Any]]
) -> None:
    kill_again_and_again(service, undisturbed, n_kills=20)


def test_the_same_on_sqlite(on_sqlite: Service, undisturbed: list[dict[str, Any]]) -> None:
    on_sqlite.start_worker(processes=2)
    kill_again_and_again(on_sqlite, undisturbed, n_kills=6)


def kill_again_and_again(service: Service, undisturbed: list[dict[str, Any]], n_kills: int) -> None:
    rng, killed_so_far, asked = random.Random(0), 0, set[str]()
    n_needed = sum(row["requests"] for row in undisturbed)

    def behave(number: int, body: dict[str, Any]) -> stub.Behaviour:
        # What is ahead of the kills is slow: however busy the machine is, the job is not done before the last one.
        asked.add(json.dumps(body["messages"]))
        is_ahead = len(asked) > n_needed * (killed_so_far + 1) / (n_kills + 2)
        return stub.slow(2.0 if is_ahead else 0.1)

    service.endpoint.behave = behave
    job = service.submit()
    while killed_so_far < n_kills and service.jobs.get(job.id).state is not JobState.DONE:
        time.sleep(rng.random() * 0.4)
        # A block that was lost three times without a new result is poison, and has a test of its own.
        holders = service.holders(lost_at_most=1)
        killed_so_far += bool(holders) and killed(rng.choice(holders))
    service.endpoint.behave = lambda number, body: stub.GOOD
    service.wait_for(job, JobState.DONE)
    assert killed_so_far == n_kills
    assert service.counts(job) == ALL_DONE
    assert service.rows(job) == undisturbed
    # What is on its way at a kill has not arrived: at most the four requests that a process has in flight.
    assert service.n_repeated() <= 4 * n_kills


@pytest.mark.parametrize("keeps", [True, False], ids=["with its data", "emptied"])
def test_a_queue_that_is_killed_costs_nothing(service: Service, keeps: bool) -> None:
    service.endpoint.behave = lambda number, body: stub.slow(0.1)
    service.redis.keeps = keeps
    job = service.submit()
    for n in (10, 50):
        service.wait_for_requests(n)
        service.redis.kill()
        time.sleep(0.2)
        service.redis.start()
    service.wait_for(job, JobState.DONE)
    assert service.counts(job) == ALL_DONE
    assert service.n_repeated() == 0


def test_a_block_that_kills_its_workers_is_set_aside(service: Service) -> None:
    def behave(number: int, body: dict[str, Any]) -> Behaviour:
        # The letter `Q` is feature 0, whose contexts alone mark it.
        if "<<Q|" in body["messages"][-1]["content"]:
            for pid in service.holders(number=0):
                killed(pid)
        return stub.GOOD

    service.endpoint.behave = behave
    job = service.submit("0-11")
    ended = service.wait_for(job, JobState.FAILED)
    assert "block 0: its worker was lost" in str(ended.reason)
    counts = service.counts(job)
    assert counts["failed"] <= 4
    assert counts["failed"] + counts["labeled"] + counts.get("silent", 0) + counts.get("rare", 0) == 12
    row = service.store.row(job.label_set_id or 0, 0)
    assert row is not None
    assert row["state"] == "failed"
    assert "three times" in row["reason"]
    service.endpoint.behave = lambda number, body: stub.GOOD
    service.jobs.retry(job.id)
    service.wait_for(job, JobState.DONE)
    assert service.counts(job) == {"labeled": 10, "silent": 1, "rare": 1}


def test_a_worker_that_sleeps_through_its_lease_saves_nothing_more(
    service: Service, undisturbed: list[dict[str, Any]]
) -> None:
    service.endpoint.behave = lambda number, body: stub.slow(2.0)
    job = service.submit("0-3")
    service.wait_for_requests(4)  # all that it asks before the first reply: none may be half sent when it falls asleep
    (asleep,) = service.holders()
    os.kill(asleep, signal.SIGSTOP)
    service.endpoint.behave = lambda number, body: stub.GOOD
    service.wait_for(job, JobState.DONE)
    rows, n_asked = service.rows(job), len(service.endpoint.requests)
    assert service.n_repeated() <= 4, "more was asked again than had been in flight"
    os.kill(asleep, signal.SIGCONT)
    time.sleep(LEASE_SECONDS)
    assert len(service.endpoint.requests) == n_asked, "once awake it asked for what others had done"
    assert service.rows(job) == rows == undisturbed[:4]
    assert service.jobs.get(job.id).state is JobState.DONE


def test_pause_and_cancel_take_effect_within_a_block(service: Service) -> None:
    service.endpoint.behave = lambda number, body: stub.slow(0.1 if number <= 20 else 0.5)
    job = service.submit()
    service.wait_for_requests(20)
    service.jobs.pause(job.id)
    _until_idle(service)
    n_paused, done = len(service.endpoint.requests), service.counts(job)
    assert done["pending"] > 0
    time.sleep(0.5)
    assert len(service.endpoint.requests) == n_paused
    service.jobs.resume(job.id)
    service.wait_for_requests(n_paused + 10)
    service.jobs.cancel(job.id)
    _until_idle(service)
    assert service.counts(job)["pending"] > 0
    service.jobs.retry(job.id)
    service.endpoint.behave = lambda number, body: stub.GOOD
    service.wait_for(job, JobState.DONE)
    assert service.counts(job) == ALL_DONE
    assert service.n_repeated() == 0


def test_a_revoked_key_pauses_the_job_with_its_reason(service: Service) -> None:
    service.endpoint.behave = lambda number, body: stub.GOOD if number <= 30 else stub.fails(401, "key revoked")
    job = service.submit()
    paused = service.wait_for(job, JobState.PAUSED)
    _until_idle(service)
    assert "key revoked" in str(paused.reason)
    assert service.counts(job).get("failed") is None, "a key that does not work fails no feature"
    assert service.counts(job)["pending"] > 0
    n_turned_down = len(service.endpoint.requests) - 30
    service.endpoint.behave = lambda number, body: stub.GOOD
    # A new key comes with new processes: keys are in the environment and nowhere else.
    service.kill_processes()
    service.jobs.resume(job.id)
    service.wait_for(job, JobState.DONE)
    assert service.counts(job) == ALL_DONE
    assert service.n_repeated() <= n_turned_down, "only what was turned down is asked for again"


def test_workers_count_for_those_who_watch(service: Service) -> None:
    def behave(number: int, body: dict[str, Any]) -> Behaviour:
        if number == 10:
            for pid in service.holders():
                killed(pid)
        return stub.busy("0.01") if number in (41, 42) else stub.GOOD

    before = _figure(service, "labeler_lease_expiries_total")
    service.endpoint.behave = behave
    job = service.submit("0-11")
    service.wait_for(job, JobState.DONE)
    _until_idle(service)
    model = service.recipe.explainer.model
    assert _figure(service, "labeler_lease_expiries_total") > before
    n_answered = _figure(service, f'labeler_llm_seconds_count{{model="{model}"}}')
    assert n_answered == _figure(service, f'labeler_llm_seconds_bucket{{le="+Inf",model="{model}"}}')
    # Those whose reply the killed processes were waiting for are in no figure, and in the stub's alone.
    assert 20 < n_answered <= len(service.endpoint.requests) - 2
    assert _figure(service, f'labeler_llm_failures_total{{kind="rate limit",model="{model}"}}') == 2
    assert _figure(service, f'labeler_llm_tokens_total{{direction="out",model="{model}"}}') > n_answered


def _figure(service: Service, name: str) -> float:
    text = Metrics(service.store, dict).text().decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + " "))


def test_a_budget_holds_over_all_workers(service: Service) -> None:
    job = service.submit(budget_tokens=20_000)
    paused = service.wait_for(job, JobState.PAUSED)
    _until_idle(service)
    assert "budget" in str(paused.reason)
    spent = sum(len(m["content"].split()) for body in service.endpoint.bodies for m in body["messages"])
    assert 5_000 < spent <= 20_000
    counts = service.counts(job)
    assert counts["labeled"] > 0
    assert "failed" not in counts


def test_a_small_job_starts_while_a_large_one_holds_all_workers(service: Service) -> None:
    small_recipe = Recipe.from_names(f"{service.recipe.explainer.name}-small")
    service.endpoint.behave = lambda number, body: stub.GOOD if body["model"].endswith("-small") else stub.slow(1.0)
    large = Jobs(service.store, block_sizes=(16, 16)).submit(service.evidence_id(), service.recipe)
    service.wait_for_requests(8)
    small = service.submit("6", recipe=small_recipe)
    service.wait_for(small, JobState.DONE)
    assert service.jobs.get(large.id).state is JobState.RUNNING
    service.endpoint.behave = lambda number, body: stub.GOOD
    service.wait_for(large, JobState.DONE)
    assert service.n_repeated() == 0


def test_a_worker_that_is_told_to_stop_gives_its_blocks_back(service: Service) -> None:
    service.endpoint.behave = lambda number, body: stub.slow(0.5)
    job = service.submit()
    service.wait_for_requests(10)
    assert service.stop_workers() == [0]
    assert service.holders() == []
    assert service.counts(job)["pending"] > 0
    assert service.jobs.get(job.id).state is JobState.RUNNING
    service.endpoint.behave = lambda number, body: stub.GOOD
    service.start_worker(processes=2)
    service.wait_for(job, JobState.DONE)
    assert service.counts(job) == ALL_DONE
    assert service.n_repeated() == 0


def _until_idle(service: Service) -> None:
    until(lambda: not service.holders())
