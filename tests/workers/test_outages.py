"""What the service leans on goes away in mid-job and comes back: database, API, queue, endpoint, the time of day."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import OutOfMemoryError
from sqlalchemy import text

from labeler.client import Client
from labeler.errors import StorageError
from labeler.rest_schema import JobDetail
from labeler.store.jobs.states import JobInfo
from labeler.terms import JobState
from tests import stub_server as stub
from tests.databases import hung, stopped
from tests.planted import N_FEATURES
from tests.stub_server import StubServer
from tests.workers.conftest import Service, a_service, free_port, new_database, until
from workers.enqueue import DEPTH

ALL_DONE = {"labeled": N_FEATURES - 2, "silent": 1, "rare": 1}


def restarted(server: Any, service: Service) -> None:
    server.stop()
    time.sleep(0.5)
    server.start()


def crashed(server: Any, service: Service) -> None:
    """PostgreSQL ends all connections and recovers, when one of its processes dies."""
    with service.store.database.reading() as connection:
        others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        pid = connection.execute(text(others)).scalars().first()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("goes_away", [restarted, crashed])
def test_a_database_that_goes_away_costs_nothing(
    service: Service, postgres_server: Any, undisturbed: list[dict[str, Any]], goes_away: Callable[..., None]
) -> None:
    service.endpoint.behave = lambda number, body: stub.slow(0.1)
    job = service.submit()
    service.wait_for_requests(20)
    goes_away(postgres_server, service)
    until(lambda: _is_done(service, job))
    # A block whose worker cannot write down that it lives may change hands, with what is on its way to two processes.
    _check_whole(service, job, undisturbed, at_most=2 * 4)


def _is_done(service: Service, job: JobInfo) -> bool:
    with suppress(StorageError):
        return service.jobs.get(job.id).state is JobState.DONE
    return False


def _check_whole(
    service: Service, job: JobInfo, undisturbed: list[dict[str, Any]], n_turned_down: int = 0, at_most: int = 0
) -> None:
    assert service.counts(job) == ALL_DONE
    assert service.rows(job) == undisturbed
    assert 0 <= service.n_repeated() - n_turned_down <= at_most, "a reply that had arrived was paid for again"


@pytest.mark.real
@pytest.mark.parametrize("goes_away", [stopped, hung])
def test_a_worker_that_is_told_to_stop_while_the_database_is_away_ends_in_time(
    postgres: str, postgres_server: Any, planted_evidence: Path, tmp_path: Path, goes_away: Callable[..., Any]
) -> None:
    """What it had in hand is counted as lost, and asked for again by the worker that ends the job."""
    with a_service(new_database(postgres), tmp_path, planted_evidence) as service:
        # Those that are under way as the database goes are answered once it is gone.
        service.endpoint.behave = lambda number, body: stub.GOOD if number <= 12 else stub.slow(3.0)
        worker = service.start_worker()
        job = service.submit()
        service.wait_for_requests(14)
        comes_back = goes_away(postgres_server)
        try:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)  # as docker-compose.yml waits before it kills
        finally:
            comes_back()
        assert "replies that had arrived" in service.log.read_text()
        service.endpoint.behave = lambda number, body: stub.GOOD
        service.start_worker()
        service.wait_for(job, JobState.DONE, seconds=120)
        assert service.counts(job) == ALL_DONE
        assert service.n_repeated() <= 2 * 4, "those in flight, and those of the commit under way"


@pytest.fixture
def api(service: Service) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], str]]]:
    """Starts `python -m api`, always at the same address."""
    port, started = free_port(), []

    def start() -> tuple[subprocess.Popen[bytes], str]:
        words = [sys.executable, "-m", "api", "--port", str(port)]
        with service.log.open("ab") as log:
            started.append(subprocess.Popen(words, env=service.environment, stdout=log, stderr=log))
        return started[-1], f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_an_api_that_is_killed_leaves_job_and_watcher_unharmed(
    service: Service, undisturbed: list[dict[str, Any]], api: Callable[[], tuple[subprocess.Popen[bytes], str]]
) -> None:
    service.endpoint.behave = lambda number, body: stub.slow(0.1 if number <= 20 else 0.5)
    evidence, model = service.evidence_id(), service.recipe.explainer.name
    first, url = api()
    with Client(url, attempts=1000) as client:  # as long as the second service takes to start
        until(lambda: _is_up(client))
        asked: dict[str, Any] = {"recipe": {}, "explainer": model, "idempotency_key": f"{model} once"}
        job = client.submit(evidence, **asked)
        seen: list[JobDetail] = []
        watcher = threading.Thread(target=lambda: seen.extend(client.watch(job.id)))
        watcher.start()
        service.wait_for_requests(20)
        first.kill()
        first.wait()
        n_before = len(service.endpoint.requests)
        service.wait_for_requests(n_before + 10)
        service.endpoint.behave = lambda number, body: stub.GOOD
        api()
        assert client.submit(evidence, **asked).id == job.id
        watcher.join(60)
    assert not watcher.is_alive()
    assert seen[-1].state is JobState.DONE
    _check_whole(service, service.jobs.get(job.id), undisturbed)


def _is_up(client: Client) -> bool:
    with suppress(StorageError):
        return list(client.jobs()) is not None
    return False


def test_a_queue_that_is_full_is_waited_for(service: Service, undisturbed: list[dict[str, Any]]) -> None:
    """Redis refuses every write for want of memory; nobody need be told when it has room again."""
    redis = Redis.from_url(service.redis.url)
    service.endpoint.behave = lambda number, body: stub.slow(0.5)
    job = service.submit()
    service.wait_for_requests(10)
    redis.config_set("maxmemory", "1")
    with pytest.raises(OutOfMemoryError):
        redis.set("a", "b")
    time.sleep(3.0)
    assert service.jobs.get(job.id).state is JobState.RUNNING
    redis.config_set("maxmemory", "0")
    service.endpoint.behave = lambda number, body: stub.GOOD
    service.wait_for(job, JobState.DONE)
    redis.close()
    _check_whole(service, job, undisturbed)


def test_messages_that_nothing_waits_for_do_no_harm(service: Service, undisturbed: list[dict[str, Any]]) -> None:
    """Far more of them than the queue should ever hold: the job gets through, and adds none."""
    redis = Redis.from_url(service.redis.url)
    with Celery(broker=service.redis.url) as queue:
        for _ in range(10 * DEPTH):
            queue.send_task("workers.label_block", queue="label")
        job = service.submit()
        service.wait_for(job, JobState.DONE)
        until(lambda: redis.llen("label") == 0)
    redis.close()
    _check_whole(service, job, undisturbed)


def test_an_endpoint_that_fails_for_a_while_is_waited_for(service: Service, undisturbed: list[dict[str, Any]]) -> None:
    down = threading.Event()
    n_turned_down = 0

    def behave(number: int, body: dict[str, Any]) -> stub.Behaviour:
        nonlocal n_turned_down
        if down.is_set():
            n_turned_down += 1
            return stub.fails(503, "overloaded")
        return stub.slow(0.05)

    service.endpoint.behave = behave
    job = service.submit()
    service.wait_for_requests(20)
    down.set()
    until(lambda: n_turned_down > 0)
    time.sleep(3.0)
    assert service.jobs.get(job.id).state is JobState.RUNNING
    down.clear()
    service.wait_for(job, JobState.DONE)
    _check_whole(service, job, undisturbed, n_turned_down)


def test_an_endpoint_that_nobody_can_reach_pauses_the_job_until_it_is_resumed(
    service: Service, undisturbed: list[dict[str, Any]]
) -> None:
    """As after a minute of failures: patience has run out. Where nobody has ever answered it is shorter."""
    port = free_port()
    service.stop_workers()
    service.environment["OPENAI_BASE_URL"], before = (
        f"http://127.0.0.1:{port}/v1",
        service.environment["OPENAI_BASE_URL"],
    )
    service.start_worker(processes=2)
    service.environment["OPENAI_BASE_URL"] = before
    job = service.submit()
    paused = service.wait_for(job, JobState.PAUSED)
    assert f"127.0.0.1:{port}" in str(paused.reason)
    assert service.counts(job).get("failed") is None
    service.wait_until_no_block_is_held(job)
    with StubServer(port=port) as endpoint:
        began = time.monotonic()
        service.jobs.resume(job.id)
        service.wait_for(job, JobState.DONE)
        waited = endpoint.requests[0].at - began
        assert waited < 30, "whoever resumes need not wait for a circuit breaker"
        service.endpoint.requests = endpoint.requests
    _check_whole(service, job, undisturbed)
    service.stop_workers()
    service.start_worker(processes=2)
