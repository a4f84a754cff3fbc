"""Ctrl-C: a real SIGINT to a real process, at a point that the test waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labeler.store import open_store
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.states import GatherRequest
from tests import stub_server as stub
from tests.planted import Planted
from tests.stub_server import StubServer

LABELER = Path(sys.executable).parent / "labeler"
_PATIENCE = 240.0  # seconds, after which something hangs


class Running:
    """`labeler WORDS...` as a process of its own, with what it has said so far."""

    def __init__(self, words: list[object], folder: Path) -> None:
        environment = {**os.environ, "OPENAI_API_KEY": "k", "OMP_NUM_THREADS": "1"}
        environment.pop("LABELER_DB", None)
        self.process = subprocess.Popen(
            [str(LABELER), *map(str, words)],
            cwd=folder,
            env=environment,
            text=True,
            bufsize=1,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said = ""
        self._patience = threading.Timer(_PATIENCE, self.process.kill)
        self._patience.start()

    def wait_for(self, words: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if line.startswith(words):
                return
        raise AssertionError(f"it never said {words!r}, but: {self.said}")

    def stop(self) -> str:
        """Ctrl-C; the last line that it says."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        assert self.process.wait() == 130, self.said
        assert "Traceback" not in self.said
        return self.said.splitlines()[-1]

    def end(self) -> None:
        self._patience.cancel()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(words: list[object], folder: Path) -> Iterator[Running]:
    process = Running(words, folder)
    try:
        yield process
    finally:
        process.end()


def test_gathering_says_what_is_kept(planted: Planted, tmp_path: Path) -> None:
    # So large that it is far from its end when the signal comes.
    words = ["gather", "--subject", "labeler-demo/subject", "--sae", "labeler-demo/sae", "--corpus", "python-stdlib"]
    with running([*words, "--tokens", "2M", "--out", "my evidence"], tmp_path) as gather:
        gather.wait_for("tokenize")
        said = gather.stop()
    assert said.startswith("stopped: nothing was gathered yet; the same command begins again: labeler gather --subject")
    assert said.endswith("--out 'my evidence'")


def test_labeling_says_what_is_kept_and_goes_on(
    planted_evidence: Path, tmp_path: Path, stub_server: StubServer
) -> None:
    asked, held = threading.Event(), threading.Event()

    def behave(number: int, body: dict) -> stub.Behaviour:
        if number >= 8:
            asked.set()
            held.wait(_PATIENCE)
        return stub.GOOD

    stub_server.behave = behave
    words = ["label", planted_evidence, "--explainer", "openai:m", "--base-url", stub_server.base_url, "--features"]
    with running([*words, "0-9", "--concurrency", "1", "--db", "x.db"], tmp_path) as label:
        assert asked.wait(_PATIENCE)
        said = label.stop()
        held.set()
    store = open_store(str(tmp_path / "x.db"))
    n = sum(1 for _ in store.rows(store.newest_label_set().id))
    store.close()
    assert 0 < n < 10
    assert said.startswith(f"stopped: {n} features of this run are saved in ")
    assert "the same command goes on: labeler label " in said


def test_watching_a_job_does_not_stop_it(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "labeler.db"))
    job = Jobs(store).submit_gather(GatherRequest("s", "a", "c", str(tmp_path / "out"))).id
    with running(["jobs", "watch", job], tmp_path) as watch:
        watch.wait_for(f"job {job} gather queued")
        said = watch.stop()
    assert (
        said
        == f"stopped: only watching: job {job} goes on, and its state is kept; watch it again with labeler jobs watch {job}"
    )
    assert Jobs(store).get(job).state == "queued"
    store.close()


def test_training_says_that_nothing_is_kept(planted: Planted, tmp_path: Path) -> None:
    words = ["train", "--subject", planted.subject, "--hookpoint", "gpt_neox.embed_in", "--corpus", planted.corpus]
    with running(
        [*words, "--features", 64, "--tokens", "1B", "--sequence-tokens", 96, "--buffer-tokens", "20k", "--out", "sae"],
        tmp_path,
    ) as train:
        train.wait_for("train")
        said = train.stop()
    assert "tokens were trained on, and no SAE was written" in said
    assert "the same command begins again" in said


class _Slow(BaseHTTPRequestHandler):
    """Sends the beginning of a label set, and then nothing more."""

    asked = threading.Event()
    held = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"{}\n")
        self.asked.set()
        self.held.wait(_PATIENCE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow_service() -> Iterator[tuple[str, Callable[[], bool]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", lambda: _Slow.asked.wait(_PATIENCE)
    _Slow.held.set()
    server.shutdown()
    server.server_close()


def test_an_export_leaves_what_was_there(tmp_path: Path, slow_service: tuple[str, Callable[[], bool]]) -> None:
    url, is_asked = slow_service
    (tmp_path / "x.jsonl").write_text("as before")
    words = ["export", "--format", "jsonl", "--out", "x.jsonl", "--label-set", 1, "--url", url]
    with running(words, tmp_path) as export:
        assert is_asked()
        said = export.stop()
    assert said.startswith("stopped: x.jsonl is as it was before")
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]
    assert (tmp_path / "x.jsonl").read_text() == "as before"


def test_starting_the_service_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(["up", "--data", "data", "--processes", "1", "--port", str(_free_port())], tmp_path) as up:
        up.wait_for("starting: ")
        said = up.stop()
    assert said.startswith("stopped: nothing was started; the same command begins again: labeler up --data data")


def _free_port() -> int:
    from tests.workers.conftest import free_port

    return free_port()
