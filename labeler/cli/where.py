"""Find the database of results, by one rule for all commands.

    --db, else LABELER_DB, else `labeler.db` in the folder that holds EVIDENCE, else `labeler.db` in the current folder

Commands that read never make a database. Their error names the missing one and those found near here.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from labeler.errors import InputError, NotFoundError

NAME = "labeler.db"
_NEAR_AT_MOST = 5
_SQLITE = "sqlite:///"
_NEVER_EMPTY = ("alembic_version", "sqlite_", "label_search_")  # tables with rows from the start


def database_of(db: str | None, evidence: Path | None = None) -> str:
    """Return the database's file or URL. It need not exist yet."""
    chosen = db or os.environ.get("LABELER_DB")
    if chosen:
        return chosen
    return NAME if evidence is None else shown(_beside(evidence))


def existing_database(db: str | None, evidence: Path | None = None, *, hint: str = "") -> str:
    """Return a database that exists. The NotFoundError names the missing one and those near here."""
    found, missing = _looked_for(db, evidence)
    if missing is None:
        return found
    raise NotFoundError(_not_there(found, db, evidence) + (f". {hint}" if hint else ""))


def new_database(db: str | None, evidence: Path | None = None) -> str:
    """Return the database for a command that creates a missing one.

    Raises InputError where it cannot be made, and where a database in the current folder has results of this evidence,
    as older versions kept them: starting again would pay for them again.
    """
    found, missing = _looked_for(db, evidence)
    if missing is None:
        return found
    folder = next(p for p in missing.absolute().parents if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"database {found}: cannot be created, because {shown(folder)} is not writable; name another with --db"
        )
    if evidence is not None and found == database_of(None, evidence) and (others := holding(evidence)):
        raise InputError(
            f"results of {evidence} are in {others[0]}, but this command looks in {found}: go on with "
            f"--db {shlex.quote(others[0])}, or move that file there while nothing uses it"
        )
    return found


def _looked_for(db: str | None, evidence: Path | None) -> tuple[str, Path | None]:
    """Return the database that the rule names, and its path where that is a file which is not there.

    Raises InputError for a folder.
    """
    found = database_of(db, evidence)
    path = file_of(found)
    if path is None or path.is_file():
        return found, None
    if path.is_dir():
        raise InputError(f"database {found}: this is a folder; {_in_folder(path)}")
    return found, path


@contextmanager
def removed_if_unused(database: str) -> Iterator[None]:
    """Remove a database file that did not exist before, if the work that made it fails before it stores anything."""
    path = file_of(database)
    if path is None or path.exists():
        yield
        return
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error, OSError):
            _remove_unused(path)
        raise


def _remove_unused(path: Path) -> None:
    if not path.is_file():
        return
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        # Leaving WAL fails while any other process has the file open: that process may store something soon.
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        names = [name for (name,) in tables if not name.startswith(_NEVER_EMPTY)]
        if not any(connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() for name in names):
            path.unlink()


def db_words(database: str, evidence: Path | None = None, *, beside_url: bool = False) -> str:
    """Return ` --db FILE` for the command in a hint, or nothing where it finds this database itself.

    `beside_url`: the command asks a service where LABELER_URL names one, and no --db is given.
    """
    asks_service = beside_url and bool(os.environ.get("LABELER_URL"))
    if not asks_service and _same(database_of(None, evidence), database):
        return ""
    return f" --db {shlex.quote(_without_password(database))}"


def file_of(database: str) -> Path | None:
    """Return the file of a SQLite database, or None for a database server."""
    if "://" not in database:
        return Path(database).expanduser()
    if database.startswith(_SQLITE):
        return Path(database.removeprefix(_SQLITE))
    return None


def shown(path: Path) -> str:
    """Return a path as a person would type it: relative to the current folder if it is below that."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def near() -> Iterator[Path]:
    """Yield the databases of results in this folder, its subfolders and its parent."""
    here = Path.cwd()
    with suppress(OSError):
        for path in (*sorted(here.glob("*.db")), *sorted(here.glob(f"*/{NAME}")), here.parent / NAME):
            if _is_results(path):
                yield path


def is_served(folder: Path) -> bool:
    """Say whether a `labeler up` runs on this data folder now: its process holds the lock."""
    import fcntl

    try:
        with (folder / "up.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def holding(evidence: Path) -> list[str]:
    """List the databases near here that have results of this evidence."""
    from labeler.files import read_json

    try:
        wanted = str(read_json(evidence / "manifest.json")["hash"])
    except (InputError, OSError, KeyError, TypeError):
        return []  # the command itself will report the bad evidence
    return [shown(path) for path in near() if _is_results(path, of=wanted)]


def _beside(evidence: Path) -> Path:
    return evidence.expanduser().resolve().parent / NAME


def _not_there(database: str, db: str | None, evidence: Path | None) -> str:
    if db:
        said = f"database {database}: no such file"
    elif os.environ.get("LABELER_DB"):
        said = f"database {database}, which LABELER_DB names: no such file"
    elif evidence is not None:
        said = f"no results of {evidence}: there is no {database}, in the folder that holds the evidence"
    else:
        said = f"no results here: there is no {NAME} in {Path.cwd()}"
    with_it = holding(evidence) if evidence is not None else []
    found = (with_it or [shown(path) for path in near()])[:_NEAR_AT_MOST]
    if not found:
        return f"{said}, and no other database near; name it with --db"
    words = [f"--db {shlex.quote(name)}" for name in found]
    if len(words) == 1:
        return f"{said}; one {'has results of it' if with_it else 'is near'}: give {words[0]}"
    what = "databases have results of it" if with_it else "databases are near"
    return f"{said}; {len(words)} {what}: give {', '.join(words[:-1])} or {words[-1]}"


def _in_folder(folder: Path) -> str:
    inside = folder / NAME
    if inside.is_file():
        return f"the database in it is --db {shlex.quote(shown(inside))}"
    if (folder / "manifest.json").is_file():
        return f"it holds evidence, whose results are in --db {shlex.quote(shown(_beside(folder)))}"
    return f"name a file in it, such as --db {shlex.quote(shown(inside))}"


def _is_results(path: Path, of: str | None = None) -> bool:
    """Check that this file is a database of ours and, with `of`, has label sets of that evidence hash."""
    query = "SELECT count(*) FROM label_set"
    if of is not None:
        query += " JOIN evidence ON evidence.id = evidence_id WHERE evidence.hash = ?"
    try:
        if not path.is_file():
            return False
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            count = connection.execute(query, () if of is None else (of,)).fetchone()[0]
    except (sqlite3.Error, OSError):
        return False
    return of is None or bool(count)


def _same(a: str, b: str) -> bool:
    one, other = file_of(a), file_of(b)
    if one is None or other is None:
        return a == b
    return one.resolve() == other.resolve()


def _without_password(database: str) -> str:
    """Hide the password of a database URL. The reader has to put it back before the hint works."""
    if file_of(database) is not None:
        return database
    from labeler.store.base.database import without_password

    return without_password(database)
