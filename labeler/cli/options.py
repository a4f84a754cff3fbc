"""Options that several commands share, the settings and the store behind them, progress bars and hints."""

from __future__ import annotations

import os
import shlex
import sys
import time
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
    from labeler.llm.exchange import Retry
    from labeler.llm.ledger import Ledger
    from labeler.recipe import Recipe
    from labeler.settings import Settings
    from labeler.store import Store

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout instead of tables.")]
Database = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="Where results are kept: a file for SQLite, or postgresql+psycopg://... "
        "[env LABELER_DB] Default: labeler.db in the folder that holds the evidence folder, else in this folder.",
    ),
]
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
        help="The writer of the labels: `lookup` or an LLM. Default: the recipe's, or lookup.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="The way to make and test labels: a TOML file, or one of `labeler recipes`. Flags override it.",
    ),
]
Simulator = Annotated[
    str | None,
    typer.Option(
        metavar="lookup|openai:MODEL",
        help="The predictor of activations from the label. Default: same as the explainer.",
    ),
]
BaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Any OpenAI-compatible endpoint. [env OPENAI_BASE_URL]")
]
Concurrency = Annotated[int, typer.Option(min=1, max=512, help="Most LLM requests in flight at one time.")]
BudgetUsd = Annotated[
    float | None,
    typer.Option(metavar="USD", help="Stop before more than this is spent. Results are kept, and the exit code is 5."),
]
BudgetTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Like --budget-usd, in tokens (in and out together).")
]


@dataclass(frozen=True)
class Asking:
    """The options of the command line that say how to ask an LLM."""

    base_url: str | None
    concurrency: int
    budget_usd: float | None
    budget_tokens: int | None
    batch: bool = False

    def check(self, recipe: Recipe) -> None:
        """Raise InputError for a budget that cannot be kept, before anything is done."""
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
    """Read the settings from the environment, with the endpoint that the command line names."""
    from dataclasses import replace

    from labeler.settings import Settings

    settings = Settings.from_environment()
    return replace(settings, base_url=base_url or settings.base_url)


def store_at(db: str | None, evidence: Path | None = None, *, make: bool = False) -> Store:
    """Open the database that the rule of cli/where.py finds. A missing one is created only with `make`."""
    from labeler.cli.where import existing_database, new_database
    from labeler.store import open_store

    return open_store((new_database if make else existing_database)(db, evidence))


def llm_for(
    recipe: Recipe, asking: Asking, settings: Settings, store: Store, ledger: Ledger | None = None
) -> OpenAILLM | None:
    """Make the LLM client of a recipe, or None for a recipe that needs no LLM."""
    models = recipe.models
    if not models:
        return None
    from labeler.llm.client import OpenAILLM
    from labeler.store.base.ledger import SqlLedger

    return OpenAILLM.from_settings(
        settings,
        ledger=ledger or SqlLedger(store),
        concurrency=asking.concurrency,
        budget=asking.budget(),
        models=models,
        on_retry=RetryTeller(),
    )


class RetryTeller:
    """Says on stderr that a failing endpoint is tried again: at the first failure, and every ten seconds at most."""

    def __init__(self, every: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._last: float | None = None

    def __call__(self, retry: Retry) -> None:
        now = self._clock()
        if self._last is not None and now - self._last < self._every:
            return
        self._last = now
        from labeler.terminal import visible

        typer.echo(
            f"{visible(retry.why)}; trying again in {max(retry.wait, 1):.0f} s, and giving up after "
            f"{max(retry.longest, 1):.0f} s of waiting at most",
            err=True,
        )


@contextmanager
def gather_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show long work step by step on stderr, for labeler/evidence/progress.py."""
    from labeler.terminal import progress

    with progress() as bar:
        tasks: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total or None, is_one_step=total == 0, before=done)
            if done:
                is_one_step = (done, total) == (1, 1)
                bar.update(tasks[what], completed=done, total=total or None, is_one_step=is_one_step)

        yield on_progress


def check_out_folder(out: Path, option: str = "--out") -> None:
    """Raise InputError, before anything is loaded, if `out` cannot become a writable folder."""
    place = next((p for p in (out, *out.absolute().parents) if p.exists() or p.is_symlink()), Path("/"))
    if not place.is_dir():
        raise InputError(f"{option} {out}: {place} is a file, but a folder is needed; name another {option}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(
            f"{option} {out}: {place} cannot be written to; name another {option}, or change its permissions"
        )


def check_out_file(out: Path) -> None:
    """Raise InputError if no file can be written at `out`."""
    check_out_folder(out.absolute().parent)


def same_command() -> str:
    """Return this command as it was typed, ready to be pasted."""
    return shlex.join(["labeler", *sys.argv[1:]])


def say(text: str) -> None:
    typer.echo(text)


def quoted(path: Path | str) -> str:
    return shlex.quote(str(path))
