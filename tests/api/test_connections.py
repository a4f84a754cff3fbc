"""Connections that never finish a request: others are served meanwhile, and neither memory nor the log grows with them."""

from __future__ import annotations

import logging
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.app import create_app
from api.bodies import _Body
from api.server import SECONDS, OnceAMinute, Server, ServerConfig, Wait, n_connections, raise_file_limit
from labeler.recipe import Recipe
from labeler.settings import Settings
from labeler.store import Store, open_store
from labeler.store.jobs.jobs import Jobs
from labeler.store.people.keys import create_key
from labeler.terms import Scope
from tests.api.half_requests import HEAD, POST
from tests.service import api_server

HOLDER = Path(__file__).with_name("half_requests.py")


@dataclass
class Held:
    """What was seen while connections were held."""

    slowest_before: float  # seconds of an answer while nothing was held
    slowest: float
    n_answered: int
    memory: int  # bytes more, at most
    log: int  # bytes more


def hold(url: str, pid: int, log: Path, key: str | None, *, n_heads: int, n_bodies: int, seconds: float) -> Held:
    """Ask with the key while another process holds unfinished requests without one."""
    before = max(_ask(url, key) for _ in range(10))
    memory, written, slowest, highest, n = _memory(pid), log.stat().st_size, 0.0, 0, 0
    words = [sys.executable, str(HOLDER), str(urlsplit(url).port), str(n_heads), str(n_bodies)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        while time.monotonic() < began + seconds or n < 3:
            slowest, highest, n = max(slowest, _ask(url, key)), max(highest, _memory(pid)), n + 1
            time.sleep(0.2)
        assert holder.poll() is None
        holder.communicate()
    return Held(before, slowest, n, highest - memory, log.stat().st_size - written)


def _ask(url: str, key: str | None) -> float:
    """The seconds until the answer, which is a good one."""
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/saes", headers=headers), timeout=30) as reply:
        assert (reply.status, bool(reply.read())) == (200, True)
    return time.monotonic() - began


def _memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> bool:
    """Whether keys exist. Without any, this machine is served."""
    return bool(request.param)


@contextmanager
def service(world: Path, folder: Path, keys: bool, n_files: int) -> Iterator[tuple[str, int, Path, str | None]]:
    data = folder / "data"
    shutil.copytree(world, data)
    key = None
    if keys:
        store = open_store(str(data / "labeler.db"))
        key = create_key(store, "ann", Scope.READ, "10000/second")[1]
        store.close()
    with api_server(data, n_files) as (url, pid):
        yield url, pid, data / "api.log", key


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("keys", [True, False], indirect=True, ids=["with keys", "without keys"])
def test_half_requests_hold_nothing_up(world: Path, tmp_path: Path, keys: bool) -> None:
    """With 200 files there is room for 100 connections, which is less than what is held."""
    with service(world, tmp_path, keys, 200) as (url, pid, log, key):
        held = hold(url, pid, log, key, n_heads=100, n_bodies=24, seconds=2)
    assert held.memory < 100e6
    assert held.log < 100e3
    assert "too many open files" not in log.read_text()


@pytest.mark.real
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("keys", [True, False], indirect=True, ids=["with keys", "without keys"])
@pytest.mark.parametrize("n_files", [1024, 8192])
def test_1100_half_requests_and_150_half_bodies_hold_nothing_up(
    world: Path, tmp_path: Path, keys: bool, n_files: int
) -> None:
    with service(world, tmp_path, keys, n_files) as (url, pid, log, key):
        held = hold(url, pid, log, key, n_heads=1100, n_bodies=150, seconds=30)
    print(f"\nkeys {keys}, {n_files} files: {held}")
    assert held.slowest < 1
    assert held.memory < 100e6
    assert held.log < 100e3


# Each limit by itself, on a server in this process


@pytest.fixture
def live(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    with Live(settings, monkeypatch) as live:
        yield live


class Live:
    """A server in a thread, whose limits a test sets."""

    def __init__(self, settings: Settings, patch: pytest.MonkeyPatch) -> None:
        self._app = create_app(settings)
        self.config = ServerConfig(self._app, "127.0.0.1", 0)
        self._server, self._patch = Server(self.config), patch
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._connections: list[socket.socket] = []

    def seconds(self, wait: Wait, seconds: float) -> None:
        self._patch.setitem(SECONDS, wait, seconds)

    def __enter__(self) -> Live:
        self._thread.start()
        wait_for(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def close_all(self) -> None:
        for connection in self._connections:
            connection.close()

    def watchers(self) -> int:
        return int(self._app.state.watchers.n_taken)

    def n_connections(self) -> int:
        return len(self._server.server_state.connections)

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self._connections.append(connection)
        connection.sendall(sent)
        return connection


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_closed(connection: socket.socket, trickle: bytes = b"") -> bytes:
    """What comes before the other side closes, while a byte is sent now and then."""
    received, deadline = b"", time.monotonic() + 60
    connection.settimeout(0.05)
    while time.monotonic() < deadline:
        try:
            if trickle:
                connection.sendall(trickle)
            if not (piece := connection.recv(1 << 16)):
                return received
            received += piece
        except TimeoutError:
            continue
        except OSError:
            return received
    raise AssertionError("it was never closed")


WHOLE = HEAD + b"\r\n"
UNFINISHED = POST % 1000 + b"{"


@pytest.mark.parametrize("trickle", [b"", b"X"])
@pytest.mark.parametrize("sent", [b"", HEAD])
def test_a_head_has_its_time(live: Live, sent: bytes, trickle: bytes) -> None:
    live.seconds(Wait.HEAD, 0.3)
    assert until_closed(live.connect(sent), trickle) == b""


@pytest.mark.parametrize("trickle", [b"", b"X"])
def test_a_connection_is_kept_for_the_next_request_and_not_for_ever(live: Live, trickle: bytes) -> None:
    live.seconds(Wait.IDLE, 0.5)
    reply = until_closed(live.connect(WHOLE + WHOLE), trickle)
    assert reply.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("trickle", [b"", b" "])
def test_a_body_has_its_time(live: Live, monkeypatch: pytest.MonkeyPatch, trickle: bytes) -> None:
    monkeypatch.setattr("api.bodies.SECONDS", 0.3)
    live.seconds(Wait.DRAIN, 0.3)
    reply = until_closed(live.connect(UNFINISHED), trickle)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"did not come in time" in reply


def test_a_body_that_came_in_pieces_is_read(live: Live) -> None:
    body = b'{"pairs": [[1, 0]]}'
    with live.connect(POST % len(body)) as connection:
        for byte in body:
            connection.sendall(bytes([byte]))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_without_a_key_no_body_is_waited_for(live: Live, store: Store) -> None:
    create_key(store, "ann", Scope.READ)
    live.seconds(Wait.DRAIN, 0.3)
    sent = (POST.replace(b"labels:lookup", path) % (4 << 20) for path in (b"labels:lookup", b"jobs", b"nothing"))
    for head in sent:
        assert until_closed(live.connect(head + b" " * 1000), b" ").startswith(b"HTTP/1.1 401")
    long_form = b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000\r\n\r\n"
    assert until_closed(live.connect(long_form)).startswith(b"HTTP/1.1 413")


def test_a_short_body_that_was_not_read_leaves_the_connection_open(live: Live, store: Store) -> None:
    key = create_key(store, "ann", Scope.READ)[1]
    with live.connect(POST % 2 + b"{}") as connection:
        assert _whole_answer(connection).startswith(b"HTTP/1.1 401")
        connection.sendall(HEAD + b"Authorization: Bearer " + key.encode() + b"\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_bodies_share_the_memory_there_is(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has been unfinished longest makes room, and a whole request is answered."""
    monkeypatch.setattr("api.bodies._MOST_HELD", 100_000)
    came: list[int] = []
    add = _Body.add
    monkeypatch.setattr(_Body, "add", lambda body, piece: (came.append(len(piece)), add(body, piece))[1])
    first = live.connect(POST % 90_000 + b" " * 60_000)
    wait_for(lambda: sum(came) == 60_000)  # a body that is growing would have others make room for it
    second = live.connect(POST % 90_000 + b" " * 60_000)
    assert first.recv(1 << 16).startswith(b"HTTP/1.1 408")
    body = b'{"pairs": [[1, 0]]}'.ljust(5_000)
    assert live.connect(POST % len(body) + body).recv(1 << 16).startswith(b"HTTP/1.1 200")
    second.sendall(b'{"pairs": [[1, 0]]}'.ljust(30_000))
    assert second.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_near_the_limit_the_longest_waiting_goes_and_an_answer_stays(live: Live, store: Store) -> None:
    live.config.most_connections = 4
    job = Jobs(store).submit(1, Recipe(), "all").id
    events = live.connect(b"GET /v1/jobs/%d/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % job)
    assert b"event: progress" in _until(events, b"event: progress")
    held = [live.connect(HEAD) for _ in range(3)]
    for connection in held[1:]:
        connection.settimeout(60)
    assert live.connect(WHOLE).recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert until_closed(held[0]) == b""
    assert b"still here" in _until(events, b"still here"), "a stream is at work, and stays"


def _whole_answer(connection: socket.socket) -> bytes:
    """One answer with its body, which may come in a piece of its own."""
    head, _, body = _until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def _until(connection: socket.socket, text: bytes) -> bytes:
    received = b""
    while text not in received:
        piece = connection.recv(1 << 16)
        assert piece, received
        received += piece
    return received


def test_an_answer_that_nobody_takes_is_given_up(live: Live) -> None:
    live.seconds(Wait.READER, 0.3)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 40)
        wait_for(lambda: not live.n_connections())


def test_a_flood_is_one_line_in_the_log(live: Live, caplog: pytest.LogCaptureFixture) -> None:
    live.config.most_connections = 2
    for _ in range(20):
        assert until_closed(live.connect(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")
    held = [live.connect(HEAD) for _ in range(20)]
    assert live.connect(WHOLE).recv(100).startswith(b"HTTP/1.1 200")
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2, warnings
    assert len(held) == 20


def test_http_1_0_is_a_proxy_s(live: Live, store: Store) -> None:
    """nginx asks so by default, and need not say for whom."""
    old = WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert live.connect(WHOLE).recv(100).startswith(b"HTTP/1.1 200")
    assert live.connect(old).recv(100).startswith(b"HTTP/1.1 403")
    key = create_key(store, "ann", Scope.READ)[1].encode()
    with_key = old.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer " + key + b"\r\n\r\n")
    assert live.connect(with_key).recv(100).startswith(b"HTTP/1.1 200")


def test_long_heads_are_refused(live: Live) -> None:
    for head, status in (
        (WHOLE.replace(b"saes", b"saes?a=" + b"x" * 17_000), b"414"),
        (WHOLE.replace(b"saes", b"saes?" + b"a=1&" * 5_000), b"414"),
        (HEAD + b"".join(b"X-%d: 1\r\n" % n for n in range(5_000)) + b"\r\n", b"431"),
        (HEAD + b"X: " + b"x" * 300_000, b"400"),
    ):
        reply = until_closed(live.connect(head)) if status == b"400" else live.connect(head).recv(1 << 16)
        assert reply.startswith(b"HTTP/1.1 " + status), reply[:100]


def _streams(live: Live, job: int, n: int) -> list[bytes]:
    """The first lines of as many answers, all asked for at the same moment."""
    asking = b"GET /v1/jobs/%d/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % job
    connections = [live.connect(asking[:-2]) for _ in range(n)]
    for connection in connections:
        connection.sendall(asking[-2:])
    return [connection.recv(1 << 16)[:12] for connection in connections]


def test_streams_of_a_key_are_counted_under_a_race(live: Live, store: Store) -> None:
    job = Jobs(store).submit(1, Recipe(), "all").id
    first = _streams(live, job, 60)
    assert (first.count(b"HTTP/1.1 200"), first.count(b"HTTP/1.1 429")) == (20, 40)
    live.close_all()
    wait_for(lambda: not live.n_connections())
    wait_for(lambda: not live.watchers())
    assert _streams(live, job, 20).count(b"HTTP/1.1 200") == 20, "whoever leaves gives the seat back"


def test_a_line_comes_again_after_a_minute_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("api.server.time.monotonic", lambda: now)
    limit, passed = OnceAMinute(), []
    for _ in range(300):
        record = logging.makeLogRecord({"levelno": logging.WARNING, "msg": "again"})
        if limit.filter(record):
            passed.append((now, getattr(record, "more_since", 0)))
        now += 0.5
    assert passed == [(1000.0, 0), (1060.0, 119), (1120.0, 119)]
    assert limit.filter(logging.makeLogRecord({"levelno": logging.ERROR, "msg": "again"}))


def test_files_are_left_for_the_database_and_evidence() -> None:
    assert [n_connections(n) for n in (256, 1024, 2048, 65536)] == [128, 512, 1024, 1024]
    assert raise_file_limit() >= 256
