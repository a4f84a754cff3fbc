"""Commands that ask a running service: `labels list`, `labels lookup`, `labels search`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import Words, app
from labeler.cli.options import Json, Url, say

if TYPE_CHECKING:
    from labeler.client import Client
    from labeler.rest_schema import Label

labels = Words(help="Labels of a running service: list, look up, search.", no_args_is_help=True)
app.add_typer(labels, name="labels")

Limit = Annotated[int, typer.Option(min=1, help="Number of labels to show.")]
SetOption = Annotated[int | None, typer.Option("--set", metavar="ID", help="Only labels of this label set.")]
SaeOption = Annotated[str | None, typer.Option(metavar="ID", help="Only labels of this SAE.")]


def client_at(url: str | None) -> Client:
    from labeler.client import Client

    return Client(url)


@labels.command("list")
def list_all(
    set: SetOption = None,
    sae: SaeOption = None,
    state: Annotated[str | None, typer.Option(help="Only this state: labeled, silent, rare or failed.")] = None,
    text: Annotated[str | None, typer.Option(help='Only labels with these words and "phrases".')] = None,
    score_min: Annotated[float | None, typer.Option()] = None,
    score_max: Annotated[float | None, typer.Option()] = None,
    sort: Annotated[str, typer.Option(help="The order: index, score, -score, density or -density.")] = "index",
    limit: Limit = 50,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List labels, filtered and sorted."""
    with client_at(url) as client:
        found = client.labels(
            set=set, sae=sae, state=state, text=text, score_min=score_min, score_max=score_max, sort=sort
        )
        _show(islice(found, limit), as_json)


@labels.command()
def lookup(
    features: Annotated[
        list[str], typer.Argument(metavar="SAE/FEATURE...", help="Features as SAE/FEATURE, such as 1/123 1/7.")
    ],
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="Show the label with the highest score. Default: that of the set with the most labels, an LLM's before a look-up.",
        ),
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show the labels of these features."""
    pairs = [_pair(feature) for feature in features]
    with client_at(url) as client:
        found = client.lookup(pairs, choose="best" if best else "default")
    if as_json:
        typer.echo(json.dumps([label and label.model_dump(mode="json") for label in found]))
        return
    for feature, label in zip(features, found, strict=True):
        say(f"{feature}: no label" if label is None else _line(label))


def _pair(feature: str) -> tuple[int, int]:
    from labeler.errors import InputError

    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", feature, re.ASCII)
    if match is None:
        raise InputError(f"feature {feature!r}: expected SAE/FEATURE, such as 1/123")
    return int(match[1]), int(match[2])


@labels.command()
def search(
    words: Annotated[str, typer.Argument(help='Words and "phrases"; -word excludes a word.')],
    set: SetOption = None,
    sae: SaeOption = None,
    meaning: Annotated[
        bool, typer.Option("--meaning", help="Find labels by meaning, if the service has embeddings.")
    ] = False,
    limit: Limit = 20,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Find labels by their words or by their meaning, the best first."""
    with client_at(url) as client:
        page = client.search(words, limit=min(limit, 500), sae=sae, set=set, by="meaning" if meaning else "words")
    _show(page.items, as_json)
    if not page.complete and meaning:
        typer.echo("some labels have no embedding yet and were not searched: `labeler embed` makes them", err=True)
    elif not page.complete:
        typer.echo(f"more than {page.n_hits:,} labels match, and not all were ranked: add a word", err=True)


def _show(found: Iterable[Label], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([label.model_dump(mode="json") for label in found]))
        return
    for label in found:
        say(_line(label))


def _line(label: Label) -> str:
    from labeler.terminal import visible

    score = "  —  " if label.score is None else f"{label.score:5.2f}"
    text = visible(label.label or f"{label.state}: {label.reason}")
    return f"{label.sae}/{label.feature_index}  {score}  {text}  (set {label.label_set_id})"
