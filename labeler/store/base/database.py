"""A migrated connection to SQLite or PostgreSQL. Errors name the database and never its password."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Select, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool, QueuePool

from labeler.errors import FormatError, InputError, StorageError
from labeler.files import clear_disk_errors

T = TypeVar("T")

_BUSY_MS = 30_000
_CONNECT_SECONDS = 10
_TRY_AGAIN = 0.2  # seconds between two attempts to reach a server

Snapshot = Connection  # the database as it is at one moment, or a transaction in it


class Database:
    """An engine that opens transactions in the way that each dialect needs.

    A server that cannot be reached is tried again for `patience` seconds before a transaction is begun; `hurry`
    tells that the process is ending and must not wait.
    """

    def __init__(self, url: str, patience: float = 0.0, *, pooled: bool = False) -> None:
        self._engine = _engine(url, pooled)
        self.patience = patience
        self.hurry: Callable[[], bool] = lambda: False
        self.name = self._engine.url.render_as_string(hide_password=True)
        self.dialect = self._engine.dialect.name

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._clear_errors(), self._connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """Open a transaction for reading in which all statements see the database at one moment."""
        with self._clear_errors(), self._connect() as connection:
            if self.dialect == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open one transaction for writing: it is committed at the end, and rolled back on an error."""
        with self._clear_errors(), self._connect() as connection:
            # SQLite must take the write lock at once: a transaction that reads first and writes later fails
            # with "database is locked", whatever the busy timeout.
            connection.execution_options(begin_immediate=True)
            with connection.begin():
                yield connection

    def _connect(self) -> Connection:
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._engine.connect()
            except OperationalError:
                if time.monotonic() >= deadline or self.hurry():
                    raise
                time.sleep(_TRY_AGAIN)

    def insist(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, which is called again where the server ends the connection in the middle of it.

        So `work` may be done twice.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return work()
            except StorageError as error:
                cause = error.__cause__
                is_cut_off = isinstance(cause, DBAPIError) and cause.connection_invalidated
                if not is_cut_off or time.monotonic() >= deadline or self.hurry():
                    raise
                time.sleep(_TRY_AGAIN)

    def migrate(self) -> None:
        """Bring the tables to this version. Several processes may do so at once."""
        from alembic import command
        from alembic.config import Config
        from alembic.migration import MigrationContext
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations"))
        config.set_main_option("path_separator", "os")
        head = ScriptDirectory.from_config(config).get_current_head()
        with self.reading() as connection:
            # Most often there is nothing to do. Then a file is enough that is read-only, or that another process writes
            # to.
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
        with self.writing() as connection:
            if self.dialect == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(718281828)")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            text = _first_line(error)
            if "file is not a database" in text:
                raise FormatError(
                    f"database {self.name}: this file is not a SQLite database; give another --db"
                ) from error
            if "readonly database" in text:
                raise StorageError(
                    f"database {self.name}: this file, or the folder that holds it, can only be read; change its permissions, or "
                    "copy it and name the copy with --db"
                ) from error
            if isinstance(error, OperationalError):
                raise StorageError(f"database {self.name}: {text}; nothing that was saved is lost") from error
            raise


def insert_into(table: Table, dialect: str) -> Any:
    """Return an INSERT of this dialect that knows ON CONFLICT."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def fetch_plain(connection: Connection, query: Select[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a query of numbers, texts and bytes as the driver gives them.

    SQLAlchemy would only wrap them, at half the speed. PostgreSQL sends them in its binary format, which costs a third
    of the textual one.
    """
    if connection.dialect.name != "postgresql":
        return list(connection.execute(query).cursor.fetchall())
    compiled = query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    driver: Any = connection.connection.driver_connection
    with driver.cursor(binary=True) as cursor:
        cursor.execute(str(compiled), compiled.params)
        return list(cursor.fetchall())


def _engine(url: str, pooled: bool) -> Engine:
    if "://" not in url:
        path = Path(url).expanduser()
        with clear_disk_errors(path):
            # The content is for the owner only: labels, hashes of keys, texts that users asked about.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        url = f"sqlite:///{path}"
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        options: dict[str, Any] = {"pool_pre_ping": True}
        if parsed.drivername.startswith("sqlite"):
            # A connection that is carried across a fork destroys the database, so none is kept open unless the process
            # is known not to fork. It should be there: closing the last one writes SQLite's journal back, which takes
            # longer than any of our transactions.
            options = {"poolclass": QueuePool, "pool_size": 8} if pooled else {"poolclass": NullPool}
        elif parsed.drivername == "postgresql+psycopg" and "connect_timeout" not in parsed.query:
            options["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}  # a hanging server answers no one
        # Errors end up in logs, where no label, review or user's text belongs.
        engine = create_engine(parsed, hide_parameters=True, **options)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
        raise InputError(
            "--db: expected a file, sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME (which needs the extra `postgres`); "
            f"cannot use the URL given ({type(error).__name__})"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "do_connect", _make_private)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(_dialect: Any, _record: Any, words: list[Any], _options: Any) -> None:
    """Make a new file readable by its owner only; SQLite gives the files beside it the same mode."""
    name = str(words[0]) if words else ""
    if name and name != ":memory:" and not name.startswith("file:"):
        with suppress(OSError):  # the file exists, or SQLite says why it cannot be made
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling would begin late; `_begin_sqlite` begins.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_BUSY_MS}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("begin_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig is not None else type(error).__name__


def without_password(url: str) -> str:
    """Hide the password of a database URL."""
    return make_url(url).render_as_string(hide_password=True)
