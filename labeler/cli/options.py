"""What several commands share: their options, the settings and the store behind them, progress and words."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from labeler.recipe import Recipe
    from labeler.settings import Settings
    from labeler.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout instead of tables.")]
Database = Annotated[
    str | None,
    typer.Option("--db", metavar="URL", help="Where results are kept: a file for SQLite, or postgresql+psycopg://... "
                 "[env LABELER_DB; default labeler.db]"),
]  # fmt: skip
Explainer = Annotated[
    str, typer.Option(metavar="lookup|openai:MODEL", help="Who writes the labels: the token look-up, or an LLM.")
]
Simulator = Annotated[
    str | None,
    typer.Option(
        metavar="lookup|openai:MODEL", help="Who predicts activations from the label. Default: as the explainer."
    ),
]
BaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Any OpenAI-compatible endpoint. [env OPENAI_BASE_URL]")
]
Concurrency = Annotated[int, typer.Option(min=1, max=512, help="LLM requests in flight at once.")]


def recipe_of(explainer: str, simulator: str | None) -> Recipe:
    from labeler.recipe import Recipe

    return Recipe.from_names(explainer, simulator)


def settings_with(base_url: str | None, db: str | None) -> Settings:
    from dataclasses import replace

    from labeler.settings import Settings

    settings = Settings.from_environment()
    return replace(settings, base_url=base_url or settings.base_url, database=db or settings.database)


def store_at(db: str | None) -> Store:
    from labeler.store import open_store

    return open_store(settings_with(None, db).database)


def llm_for(recipe: Recipe, settings: Settings, store: Store, concurrency: int) -> Any:
    if recipe.explainer.kind == recipe.simulator.kind == "lookup":
        return None
    from labeler.llm.client import OpenAILLM
    from labeler.store.ledger import SqlLedger

    return OpenAILLM.from_settings(settings, ledger=SqlLedger(store), concurrency=concurrency)


@contextmanager
def gather_progress() -> Iterator[Callable[[str, int, int], None]]:
    from labeler.terminal import progress

    with progress() as bar:
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None)
            bar.update(tasks[what], completed=done)

        yield on_progress


def say(text: str) -> None:
    typer.echo(text)


def quoted(path: Path) -> str:
    return shlex.quote(str(path))
