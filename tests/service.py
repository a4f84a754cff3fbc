"""The service over a data folder: in this process, from beside it, and as a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labeler.settings import Settings
from labeler.store import Store, open_store
from tests.waiting import HANGS


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    """A copy of the world that a test may change."""
    shutil.copytree(world, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def settings(data: Path) -> Settings:
    return Settings(database=str(data / "labeler.db"), data=data)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    """The database of the service, from beside it."""
    store = open_store(settings.database)
    yield store
    store.close()


@contextmanager
def api_process(data: Path) -> Iterator[str]:
    """`python -m api` over the folder's database: its address, once it answers. Its log is `api.log` in the folder."""
    with api_server(data) as (url, _):
        yield url


@contextmanager
def api_server(data: Path, n_files: int | None = None) -> Iterator[tuple[str, int]]:
    """`api_process`, and its process id; with `n_files`, it may open no more files than these."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "api", "--port", str(port)]
    if n_files is not None:
        words = ["sh", "-c", f'ulimit -n {n_files} && exec "$@"', "sh", *words]
    environment = {**os.environ, "LABELER_DB": str(data / "labeler.db"), "LABELER_DATA": str(data)}
    with (data / "api.log").open("wb") as log:
        server = subprocess.Popen(words, env=environment, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/openapi.json")
            yield f"http://127.0.0.1:{port}", server.pid
        finally:
            server.terminate()
            assert server.wait(timeout=HANGS) in (0, -15), (data / "api.log").read_text()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + HANGS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=HANGS):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
