"""`labeler label --plan` and `labeler recipes`: the cost before the work, and the bundled recipes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import app
from labeler.cli.options import Asking, Json, say, settings_with, store_at
from labeler.cli.where import database_of, file_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labeler.evidence.store import EvidenceFolder
    from labeler.label_sets.plan import Plan
    from labeler.recipe import Recipe


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe, to copy and change it.")] = None,
    as_json: Json = False,
) -> None:
    """List the bundled recipes, for `labeler label --recipe NAME`."""
    from labeler.errors import NotFoundError
    from labeler.recipes import known_recipes, text_of

    known = known_recipes()
    if name is None:
        say(json.dumps(known) if as_json else "\n".join(f"{n:<12} {what}" for n, what in known.items()))
    elif name in known:
        say(json.dumps({name: text_of(name)}) if as_json else text_of(name).rstrip())
    else:
        raise NotFoundError(f"recipe {name!r}: known are {', '.join(known)}")


def show_plan(evidence: Path, features: str, recipe: Recipe, asking: Asking, db: str | None, as_json: bool) -> None:
    """Print the requests, tokens and cost of labeling the missing features. Nothing is asked or saved."""
    from labeler.evidence.store import EvidenceFolder
    from labeler.label_sets.plan import plan_labels
    from labeler.llm.prices import Prices
    from labeler.selection import parse_features

    folder = EvidenceFolder(evidence)
    prices = Prices.load(settings_with(asking.base_url).prices)
    missing = _missing(folder, parse_features(features, folder.n_features), recipe, db)
    plan = asyncio.run(plan_labels(folder, missing, recipe, prices))
    if as_json:
        totals = {name: getattr(plan, name) for name in ("requests", "tokens_in", "tokens_out", "cost_usd")}
        say(json.dumps({"plan": {**asdict(plan), **totals}}))
    else:
        _print(plan)


def _missing(folder: EvidenceFolder, wanted: Sequence[int], recipe: Recipe, db: str | None) -> Sequence[int]:
    """Select the features that have no result yet in the label set of this recipe, if there is one."""
    from labeler.label_sets.missing import missing_features

    path = file_of(database_of(db, folder.folder))
    if path is not None and not path.exists():
        return wanted
    store = store_at(db, folder.folder)
    same = [s for s in store.label_sets() if (s.evidence_hash, s.recipe_hash) == (folder.hash, recipe.hash)]
    return missing_features(wanted, store, same[-1]) if same else wanted


def _print(plan: Plan) -> None:
    from rich.table import Table

    from labeler.terminal import stdout

    kept = f"; about {plan.n_kept_lookup:,} will keep their look-up label" if plan.n_kept_lookup else ""
    say(
        f"{plan.n_features:,} features without a result: {plan.n_silent:,} silent, {plan.n_rare:,} rare{kept}; "
        f"an LLM is asked about {plan.n_asked:,}."
    )
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "request", "model"):
        table.add_column(name)
    for name in ("requests", "tokens in", "tokens out", "USD"):
        table.add_column(name, justify="right")
    for s in (*plan.stages, None):
        row = plan if s is None else s
        names = ("all", "", "") if s is None else (s.stage, s.purpose, s.model)
        table.add_row(*names, f"{row.requests:,}", f"{row.tokens_in:,}", f"{row.tokens_out:,}", _usd(row.cost_usd))
    stdout().print(table)
    say(
        f"Estimated from the prompts of {plan.n_sampled} features: tokens in {plan.counted}, tokens out as in usual replies, every "
        "decision of the recipe at its highest cost. Nothing was asked."
    )


def _usd(cost: float | None) -> str:
    return "unknown" if cost is None else f"{cost:,.4f}" if cost < 1 else f"{cost:,.2f}"
