"""Commands for API keys: keys create, keys list, keys revoke."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import Words, app
from labeler.cli.options import Database, Json, say
from labeler.cli.where import NAME, existing_database, file_of, is_served, near, shown
from labeler.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from labeler.store import Store

keys = Words(help="API keys of the service: make, list, revoke.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The folder given to `labeler up`. [env LABELER_DATA] Default: labeler-data, as there.",
    ),
]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="The key's owner or purpose.")],
    scope: Annotated[str, typer.Option(help="read; submit adds jobs and reviews; admin adds keys.")] = "read",
    rate: Annotated[str, typer.Option(metavar="N/UNIT", help="Request limit, such as 10/second.")] = "1200/minute",
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once. From the first key on, every request needs one."""
    from labeler.store.people.keys import create_key
    from labeler.terms import Scope

    if scope not in set(Scope):
        raise InputError(f"--scope {scope!r}: choose one of {', '.join(Scope)}")
    with _service_store(data, db) as (store, database):
        made, text = create_key(store, name, Scope(scope), rate)
    if as_json:
        typer.echo(json.dumps({**asdict(made), "key": text, "database": database}, default=str))
        return
    say(text)
    typer.echo(
        f"Keep it: it cannot be shown again. Send it as `Authorization: Bearer KEY`, or set LABELER_KEY to it.\n"
        f"Key {made.id} ({scope}) is stored in {database}. {_who_asks(database)}",
        err=True,
    )


@keys.command("list")
def list_all(data: Data = None, db: Database = None, as_json: Json = False) -> None:
    """List the keys without their secrets, which are not stored."""
    from labeler.store.people.keys import list_keys

    with _service_store(data, db) as (store, database):
        found = list_keys(store)
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in found], default=str))
        return
    if not found:
        say(f"No keys in {database}. Without one, the service answers only this machine.")
        say("Make one with `labeler keys create NAME`.")
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        say(f"{key.id}  {key.scope:6}  {key.rate:14}  {key.created_at:%Y-%m-%d}  {state}  {key.name}")


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `labeler keys list` shows it.")],
    data: Data = None,
    db: Database = None,
) -> None:
    """Revoke a key. It stops working at once."""
    from labeler.store.people.keys import revoke_key

    with _service_store(data, db) as (store, database):
        revoked = revoke_key(store, key)
    say(f"Key {revoked.id} ({revoked.name}) is revoked in {database}.")


@contextmanager
def _service_store(data: Path | None, db: str | None) -> Iterator[tuple[Store, str]]:
    """Open the database in which the service looks for keys, and name it. It must exist already."""
    from labeler.store import open_store

    database = _service_database(data, db)
    store = open_store(database)
    try:
        yield store, database if file_of(database) is not None else store.database.name
    finally:
        store.close()


def _service_database(data: Path | None, db: str | None) -> str:
    """Find the service's database.

    Raises NotFoundError if it does not exist, and InputError where none was named and a service near here uses another one.
    """
    if data is not None and db is not None:
        raise InputError("--data and --db both say where the keys are: give one of them")
    if db is not None:
        return existing_database(db)
    if data is not None:
        return _in_data_folder(data, f"--data {data}")
    served = [path for path in near() if is_served(path.parent)]
    if os.environ.get("LABELER_DB"):
        found = existing_database(None)
    else:
        folder = Path(os.environ.get("LABELER_DATA") or "labeler-data")
        found = _in_data_folder(folder, f"the service's data folder, by default {folder}")
    path = file_of(found)
    if path is not None and served and path.resolve() not in [p.resolve() for p in served]:
        raise InputError(
            f"no service uses {found} now, and `labeler up` runs on {shown(served[0].parent)}: "
            f"give --data {shlex.quote(shown(served[0].parent))}, or --db {shlex.quote(found)} if that is meant"
        )
    return found


def _in_data_folder(folder: Path, what: str) -> str:
    path = folder / NAME
    if path.is_file():
        return shown(path)
    # A key is for a running service, so those come first; else any database near here may be meant.
    others = list(near())
    others = [p for p in others if is_served(p.parent)] or others
    found = "; ".join(f"--data {shlex.quote(shown(p.parent))}" for p in others if p.name == NAME)
    near_by = f". Found near: {found}" if found else ""
    raise NotFoundError(f"{what}: there is no {path}. `labeler up --data {shlex.quote(str(folder))}` makes it{near_by}")


def _who_asks(database: str) -> str:
    path = file_of(database)
    if path is None:
        return "Services on this database ask for a key from now on."
    if is_served(path.absolute().parent):
        return f"The running `labeler up` on {shown(path.absolute().parent)} asks for a key from now on."
    return "No `labeler up` is running on it; the next one will ask for a key."
