"""Connections that never finish a request: others are served meanwhile, and neither memory nor the log grows with them."""

from __future__ import annotations

import itertools
import shutil
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from api.server import raise_file_limit
from labeler.store import open_store
from labeler.store.keys import Scope, create_key
from tests.service import api_server

BODY = 4 << 20
HEAD = b"GET /v1/saes HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/labels:lookup HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@dataclass
class Held:
    """What was seen while connections were held."""

    slowest: float  # seconds of an answer
    n_answered: int
    memory: int  # bytes more, at most
    log: int  # bytes more


def hold(url: str, pid: int, log: Path, key: str | None, *, n_heads: int, n_bodies: int, seconds: float) -> Held:
    """Open connections without a key and leave them unfinished; of the heads, every other one gets a byte each second."""
    memory, written, slowest, highest, n = _memory(pid), log.stat().st_size, 0.0, 0, 0
    ended, began = threading.Event(), time.monotonic()
    with ExitStack() as open_ones:
        heads = [open_ones.enter_context(_connect(url)) for _ in range(n_heads)]
        bodies = [open_ones.enter_context(_connect(url)) for _ in range(n_bodies)]
        sender = threading.Thread(target=_send, args=(heads, bodies, ended), daemon=True)
        sender.start()
        open_ones.callback(sender.join)
        open_ones.callback(ended.set)
        while time.monotonic() < began + seconds or n < 3:
            at = time.monotonic()
            assert _ask(url, key) == 200
            slowest, highest, n = max(slowest, time.monotonic() - at), max(highest, _memory(pid)), n + 1
            time.sleep(0.05)
        return Held(slowest, n, highest - memory, log.stat().st_size - written)


def _connect(url: str) -> socket.socket:
    place = urlsplit(url)
    return socket.create_connection((place.hostname, place.port), timeout=30)


def _ask(url: str, key: str | None) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/saes", headers=headers), timeout=30) as reply:
        reply.read()
        return int(reply.status)


def _send(heads: list[socket.socket], bodies: list[socket.socket], ended: threading.Event) -> None:
    left = {body: memoryview(POST + b"Content-Length: %d\r\n\r\n" % BODY + b" " * (BODY - 1)) for body in bodies}
    for each in (*heads, *bodies):
        each.setblocking(False)
    for head in heads:
        _try_to_send(head, HEAD)
    for n in itertools.count():
        for body in left:
            left[body] = left[body][_try_to_send(body, left[body][: 1 << 18]) :]
        if n % 100 == 0:
            for head in heads[::2]:
                _try_to_send(head, b"X")
        if ended.wait(0.01):
            return


def _try_to_send(to: socket.socket, data: bytes | memoryview) -> int:
    try:
        return to.send(data)
    except OSError:  # full, or closed by the service
        return 0


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
        assert _ask(url, key) == 200
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
    assert raise_file_limit() >= 2000, "this test itself opens 1,250 connections: raise the limit on open files"
    with service(world, tmp_path, keys, n_files) as (url, pid, log, key):
        held = hold(url, pid, log, key, n_heads=1100, n_bodies=150, seconds=30)
    print(f"\nkeys {keys}, {n_files} files: {held}")
    assert held.slowest < 1
    assert held.memory < 100e6
    assert held.log < 100e3
