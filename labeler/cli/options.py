"""What several commands share: their options, the settings and the store behind them, progress and words."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labeler.errors import InputError

if TYPE_CHECKING:
    from labeler.llm.budget import Budget
    from labeler.llm.client import OpenAILLM
    from labeler.llm.ledger import Ledger
    from labeler.recipe import Recipe
    from labeler.settings import Settings
    from labeler.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout instead of tables.")]
Database = Annotated[
    str | None,
    typer.Option("--db", metavar="URL", help="Where results are kept: a file for SQLite, or postgresql+psycopg://... "
                 "[env LABELER_DB] Default: labeler.db in the folder that holds the evidence folder, else in this folder."),
]  # fmt: skip
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="LABELER_URL",
        show_envvar=False,
        help="A running service, such as http://127.0.0.1:8000 [env LABELER_URL]; its key is in LABELER_KEY.",
    ),
]
Explainer = Annotated[
    str | None,
    typer.Option(
        metavar="lookup|openai:MODEL",
        help="Who writes the labels: the token look-up, or an LLM. Default: as the recipe says, or lookup.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="How labels are made and tested: a TOML file, or one of `labeler recipes`. Flags go before it.",
    ),
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
BudgetUsd = Annotated[
    float | None,
    typer.Option(
        metavar="USD", help="Stop before more than this is spent; what is done is kept, and the exit code is 5."
    ),
]
BudgetTokens = Annotated[int | None, typer.Option(metavar="N", help="As --budget-usd, in tokens in and out.")]


@dataclass(frozen=True)
class Asking:
    """How an LLM is asked, as the command line says it."""

    base_url: str | None
    concurrency: int
    budget_usd: float | None
    budget_tokens: int | None
    batch: bool = False

    def check(self, recipe: Recipe) -> None:
        """Raises InputError for a budget that cannot be kept, before anything is done."""
        from labeler.llm.prices import Prices

        self.budget().check_prices(Prices.load(settings_with(self.base_url).prices), recipe.models)

    def budget(self) -> Budget:
        from labeler.llm.budget import Budget

        return Budget(self.budget_usd, self.budget_tokens)


def recipe_of(explainer: str | None, simulator: str | None, recipe: str | None = None) -> Recipe:
    if recipe is not None:
        from labeler.recipes import read_recipe

        return read_recipe(recipe, explainer, simulator)
    from labeler.recipe import Recipe

    return Recipe.from_names(explainer or "lookup", simulator)


def settings_with(base_url: str | None) -> Settings:
    """The environment, with the endpoint that the command line names."""
    from dataclasses import replace

    from labeler.settings import Settings

    settings = Settings.from_environment()
    return replace(settings, base_url=base_url or settings.base_url)


def store_at(db: str | None, evidence: Path | None = None, *, make: bool = False) -> Store:
    """The results, where the rule of cli/where.py says; only with `make` is a database made that is not there."""
    from labeler.cli.where import existing_database, new_database
    from labeler.store import open_store

    return open_store((new_database if make else existing_database)(db, evidence))


def llm_for(
    recipe: Recipe, asking: Asking, settings: Settings, store: Store, ledger: Ledger | None = None
) -> OpenAILLM | None:
    """None for a recipe that asks nobody."""
    models = recipe.models
    if not models:
        return None
    from labeler.llm.client import OpenAILLM
    from labeler.store.ledger import SqlLedger

    return OpenAILLM.from_settings(
        settings,
        ledger=ledger or SqlLedger(store),
        concurrency=asking.concurrency,
        budget=asking.budget(),
        models=models,
    )


@contextmanager
def gather_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Shows long work step by step on stderr, for labeler/evidence/progress.py."""
    from labeler.terminal import progress

    with progress() as bar:
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None, is_one_step=total == 0)
            if done:
                is_one_step = (done, total) == (1, 1)
                bar.update(tasks[what], completed=done, total=total or None, is_one_step=is_one_step)

        yield on_progress


def check_out_folder(out: Path, option: str = "--out") -> None:
    """Raises InputError where `out` cannot become a folder that is written to, before anything is loaded."""
    place = next((p for p in (out, *out.absolute().parents) if p.exists() or p.is_symlink()), Path("/"))
    if not place.is_dir():
        raise InputError(f"{option} {out}: {place} is a file, and this has to be a folder; name another {option}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{option} {out}: {place} cannot be written to; name another {option}, or change its permissions"
        )


def check_out_file(out: Path) -> None:
    """Raises InputError where no file can be written at `out`."""
    check_out_folder(out.absolute().parent)


def same_command() -> str:
    """This command as it was typed, ready to be pasted."""
    return shlex.join(["labeler", *sys.argv[1:]])


def say(text: str) -> None:
    typer.echo(text)


def quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
