"""`labeler import ...` brings in label sets and evidence that were made elsewhere. Each kind has its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.app import Words, app
from labeler.cli.options import Database, Json, say, store_at

imports = Words(help="Bring in label sets and evidence that were made elsewhere.", no_args_is_help=True)
app.add_typer(imports, name="import")


@imports.command("labels")
def import_labels(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet, written by `labeler export`.")],
    card: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The card. Default: the one inside the file, or FILE.card.json beside it."),
    ] = None,
    part: Annotated[
        bool, typer.Option("--part", help="The file is only a part: its card counts more features than it holds.")
    ] = False,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Store an exported label set in the database, as a separate label set that says where it came from."""
    from dataclasses import asdict

    from labeler.imports.labels import import_labels as bring_in
    from labeler.schema import REVIEWED
    from labeler.terminal import visible

    done = bring_in(store_at(db, make=True), file, card, part=part)
    if as_json:
        typer.echo(json.dumps({**asdict(done), "file": str(file)}))
        return
    contexts = f" with {done.n_contexts:,} contexts" if done.n_contexts else ""
    say(f"{done.n_features:,} features{contexts} of {file} are label set {done.label_set}, marked as imported")
    said = {column.name for column in REVIEWED}
    if reviews := [name for name in done.columns_left_out if name in said]:
        typer.echo(
            f"left out: what people said of the labels ({', '.join(reviews)}); the file does not say when they said it, nor who gave a verdict",
            err=True,
        )
    if others := [visible(name) for name in done.columns_left_out if name not in said]:
        typer.echo(f"left out, since no label set has such columns: {', '.join(others)}", err=True)
