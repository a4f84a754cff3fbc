"""Commands about API keys: keys create, keys list, keys revoke."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from labeler.cli.app import app
from labeler.cli.options import Database, Json, say, store_at

keys = typer.Typer(help="API keys of the service: make, list, revoke.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    scope: Annotated[str, typer.Option(help="read; submit: jobs and reviews too; admin: keys too.")] = "read",
    rate: Annotated[str, typer.Option(metavar="N/UNIT", help="Requests allowed, such as 10/second.")] = "1200/minute",
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, once. From the first key on, the service answers nobody without one."""
    from labeler.errors import InputError
    from labeler.store.keys import Scope, create_key

    if scope not in set(Scope):
        raise InputError(f"--scope {scope!r}: choose one of {', '.join(Scope)}")
    made, text = create_key(store_at(db), name, Scope(scope), rate)
    if as_json:
        typer.echo(json.dumps({**asdict(made), "key": text}, default=str))
    else:
        say(text)
        typer.echo(
            f"This is the only time that key {made.id} is shown. Send it as `Authorization: Bearer KEY`, or set LABELER_KEY.",
            err=True,
        )


@keys.command("list")
def list_all(db: Database = None, as_json: Json = False) -> None:
    """List the keys, without their secrets, which nobody has."""
    from labeler.store.keys import list_keys

    found = list_keys(store_at(db))
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in found], default=str))
        return
    if not found:
        say("No keys. Without one the service answers this machine only. Make one with `labeler keys create NAME`.")
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        say(f"{key.id}  {key.scope:6}  {key.rate:14}  {key.created_at:%Y-%m-%d}  {state}  {key.name}")


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `labeler keys list` shows it.")],
    db: Database = None,
) -> None:
    """End a key at once."""
    from labeler.store.keys import revoke_key

    revoked = revoke_key(store_at(db), key)
    say(f"Key {revoked.id} ({revoked.name}) is revoked.")
