"""`labeler export` writes a label set to a file, from the database or from a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.app import app, stoppable
from labeler.cli.options import Database, Json, Url, check_out_file, say, store_at
from labeler.errors import InputError


@app.command()
def export(
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="The file or folder to write; the card goes inside or beside it.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            help="jsonl, csv, parquet; hf: a folder for Hugging Face's `load_dataset`; saebench: a summary as SAEBench's; "
            "neuronpedia: the tree that its import reads. Default: by the file's ending."
        ),
    ] = None,
    label_set: Annotated[
        int | None,
        typer.Option(
            "--label-set",
            metavar="ID",
            help="Default: the one with the most labels; if two are equal, an LLM's before a look-up.",
        ),
    ] = None,
    spreadsheet: Annotated[
        bool,
        typer.Option(
            "--spreadsheet",
            help="CSV that is safe in a spreadsheet, which would run a text that begins with =, +, - or @ as a formula.",
        ),
    ] = False,
    top_contexts: Annotated[int, typer.Option(min=0, max=50, help="Add this many TOP contexts to each row.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="neuronpedia: the model's id there. Default: the subject's name.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER-SET", help="neuronpedia: the source's id there. Default: after the hookpoint and SAE."
        ),
    ] = None,
    db: Database = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Write a label set to a file, with the card that says how it was made.

    With --url and no --db, the running service writes it, as jsonl, csv or parquet.
    """
    from labeler.formats import export_as, format_of

    check_out_file(out)
    format = format_of(out, format)
    with stoppable(
        lambda: f"{out} is as it was before, since a file appears whole or not at all; the same command begins again"
    ):
        if url is not None and db is None:
            _check_service_has(format, top_contexts, model or source)
            chosen, n_rows = _from_service(url, label_set, format, out, spreadsheet)
        else:
            from labeler.store.label_sets.choice import named_or_default

            store = store_at(db)
            chosen = named_or_default(store, label_set).id
            n_rows = export_as(store, chosen, format, out, top_contexts, model, source, spreadsheet=spreadsheet)
    if as_json:
        typer.echo(json.dumps({"label_set": chosen, "format": format, "out": str(out), "rows": n_rows}))
    else:
        say(f"{n_rows:,} features of label set {chosen} in {out}")


def _check_service_has(format: str, top_contexts: int, place: str | None) -> None:
    from labeler.export.stream import FORMATS

    asked = {f"--format {format}": format not in FORMATS, "--top-contexts": top_contexts, "--model or --source": place}
    if what := next((name for name, is_asked in asked.items() if is_asked), None):
        raise InputError(
            f"{what} needs the database, but only a service is given: name its database with --db; the service itself "
            f"exports {', '.join(FORMATS)}, without contexts"
        )


def _from_service(url: str, label_set: int | None, format: str, out: Path, spreadsheet: bool) -> tuple[int, int]:
    """Return the label set's id and its number of results, read from its card."""
    from labeler.client import Client
    from labeler.export.export import check_is_file, write_card

    check_is_file(out, format)
    with Client(url) as client:
        chosen = client.default_set().id if label_set is None else label_set
        client.export(chosen, format, out, spreadsheet=spreadsheet)
        card = client.card(chosen)
        write_card(out, format, card, client.card_markdown(chosen), spreadsheet=spreadsheet)
    return chosen, sum(c["features"] for state, c in card["coverage"].items() if state != "pending")
