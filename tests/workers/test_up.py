"""`labeler up` as a person has it: one command, killed and started again, stopped without a trace."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from labeler.cli import service
from labeler.cli.supervisor import Program, Supervisor
from labeler.evidence.store import EvidenceFolder
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from labeler.store.jobs.jobs import Jobs
from labeler.terms import JobState
from tests import stub_server as stub
from tests.planted import N_FEATURES
from tests.stub_server import StubServer
from tests.waiting import HANGS
from tests.workers.conftest import free_port

LABELER = Path(sys.executable).parent / "labeler"


class Up:
    def __init__(self, data: Path, endpoint: StubServer) -> None:
        self._folder = data.parent  # of a user who has things of the same names
        for name in ("api", "workers"):
            (self._folder / f"{name}.py").write_text("raise SystemExit(f'{__name__} of the user')")
        self._environment = {**os.environ, "LABELER_CONCURRENCY": "4", "OMP_NUM_THREADS": "1"}
        self._words = [LABELER, "up", "--data", data, "--processes", "1", "--base-url", endpoint.base_url]
        self._started: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        """Returns once it has said where it is."""
        words = [*map(str, self._words), "--port", str(free_port())]
        process = subprocess.Popen(
            words,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that this process has started, and what those have."""
    return psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def up(tmp_path: Path, stub_server: StubServer) -> Iterator[Up]:
    up = Up(tmp_path / "data", stub_server)
    yield up
    up.stop()


def test_up_goes_on_where_it_was_killed_and_leaves_nothing_behind(
    up: Up, tmp_path: Path, planted_evidence: Path, stub_server: StubServer
) -> None:
    stub_server.behave = lambda number, body: stub.slow(0.1)
    first = up.start()
    greeting = said(first, "Try: ")
    assert re.search(r"labeler is up: http://127\.0\.0\.1:\d+ ", greeting)
    store = open_store(str(tmp_path / "data" / "labeler.db"))
    job = submit(store, planted_evidence)
    wait(lambda: len(stub_server.requests) > 20)

    started = family(first)
    assert {"redis-server"} < {p.name() for p in started}
    first.kill()
    wait(lambda: not alive(started))
    assert Jobs(store).get(job).state is JobState.RUNNING

    stub_server.behave = lambda number, body: stub.GOOD
    second = up.start()
    said(second, "Try: ")
    wait(lambda: Jobs(store).get(job).state is JobState.DONE)
    assert sum(1 for _ in store.rows(store.newest_label_set().id)) == N_FEATURES
    next(p for p in family(second) if p.name() == "redis-server").kill()
    said(second, "redis ended and is started again")

    refused = subprocess.run([str(w) for w in up._words], capture_output=True, text=True, check=False)
    assert refused.returncode == 3
    assert "another `labeler up` is running here" in refused.stderr

    started = family(second)
    second.send_signal(signal.SIGINT)
    said(second, "continues")
    assert second.wait(HANGS) == 0
    assert alive(started) == []
    store.close()


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = [LABELER, "up", "--data", str(tmp_path / "data"), "--port", str(port)]
        refused = subprocess.run(words, capture_output=True, text=True, check=False, timeout=HANGS)
    assert refused.returncode == 2
    assert f"port {port}: Address already in use; choose another with --port" in refused.stderr
    assert not (tmp_path / "data" / "logs").exists()


def test_it_is_announced_once_it_answers(capsys: pytest.CaptureFixture[str]) -> None:
    class Healthy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    port, before = free_port(), []
    with ExitStack() as stack:

        def watch() -> None:
            before.append(capsys.readouterr())
            if len(before) == 2:
                api = stack.enter_context(HTTPServer(("127.0.0.1", port), Healthy))
                threading.Thread(target=api.serve_forever, args=(0.01,), daemon=True).start()
                stack.callback(api.shutdown)

        service._greet(watch, Path("data"), port, seconds=0)
    assert "the API does not answer: see data/logs/api.log" in before[0].err
    assert [said.out for said in before] == [""] * len(before)
    assert "".join(said.err for said in before[1:]) == ""
    assert f"labeler is up: http://127.0.0.1:{port} " in capsys.readouterr().out


def test_only_what_keeps_dying_waits_longer_each_time(tmp_path: Path) -> None:
    now, waited = 0.0, []
    with Supervisor(tmp_path, clock=lambda: now) as them:
        them.start(Program("brief", [sys.executable, "-c", "print('began')"]))
        for lived in (0, 0, 0, 60, 0):
            now += lived
            wait(lambda: them.watch_once() == ["brief"])
            died, n_before = now, starts(tmp_path / "brief.log")
            assert n_before == len(waited) + 1
            while them._not_before:
                now += 0.25
                assert them.watch_once() == []
            waited.append(now - died)
    assert waited == [0.5, 1.0, 2.0, 0.5, 1.0]


def starts(log: Path) -> int:
    return log.read_text().count("began")


def submit(store: Store, evidence: Path) -> int:
    evidence_id = store.add_evidence(EvidenceFolder(evidence).manifest, str(evidence))
    return Jobs(store, block_sizes=(8, 8)).submit(evidence_id, Recipe.from_names("openai:letters")).id


def said(process: subprocess.Popen[str], words: str) -> str:
    """What it printed up to a line with these words."""
    assert process.stdout is not None
    lines = ""
    patience = threading.Timer(HANGS, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            lines += line
            if words in line:
                return lines
    finally:
        patience.cancel()
    raise AssertionError(f"it never said {words!r}, but: {lines}")


def wait(holds: Callable[[], bool], seconds: float = HANGS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
