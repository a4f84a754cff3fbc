"""`labeler embed` stores an embedding of each label, so that the service can search by meaning."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import app
from labeler.cli.options import (
    Asking,
    BudgetTokens,
    BudgetUsd,
    Concurrency,
    Database,
    Json,
    RetryTeller,
    say,
    settings_with,
    store_at,
)
from labeler.errors import InputError

if TYPE_CHECKING:
    from labeler.label_sets.embed import EmbeddingPlan
    from labeler.settings import Settings
    from labeler.store import Store


@app.command()
def embed(
    sets: Annotated[
        list[int] | None, typer.Argument(metavar="SET...", help="Label sets. Default: all of them.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="An embeddings model. [env LABELER_EMBEDDINGS_MODEL]")
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The endpoint of the model. [env LABELER_EMBEDDINGS_URL, or OPENAI_BASE_URL]"),
    ] = None,
    texts_per_request: Annotated[
        int, typer.Option(min=1, max=2048, help="Texts per request; endpoints have a limit.")
    ] = 128,
    concurrency: Concurrency = 16,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the requests, tokens and cost, and stop.")] = False,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Embed the labels that have no embedding yet, so that the service finds them by meaning.

    Equal texts are embedded once. The same command goes on where it was stopped.
    """
    from labeler.label_sets.embed import plan_embeddings
    from labeler.llm.prices import Prices

    settings = settings_with(None)
    name = model or settings.embeddings_model
    if not name:
        raise InputError(
            "--model: which embeddings model? Name it here, or set LABELER_EMBEDDINGS_MODEL as the service has it"
        )
    settings = replace(settings, base_url=base_url or settings.embeddings_url or settings.base_url)
    asking = Asking(settings.base_url, concurrency, budget_usd, budget_tokens)
    store = store_at(db)
    chosen = [store.label_set(label_set).id for label_set in sets] if sets else [s.id for s in store.label_sets()]
    prices = Prices.load(settings.prices)
    asking.budget().check_prices(prices, [name])
    needed = plan_embeddings(store, chosen, name, texts_per_request, prices)
    if not as_json:
        say(_told(needed, name))
    n_embedded = 0 if plan else _embed(store, chosen, name, settings, asking, texts_per_request, needed.texts)
    if as_json:
        say(json.dumps({"label_sets": chosen, "model": name, "plan": asdict(needed), "embedded": n_embedded}))
    elif not plan:
        say(f"{n_embedded:,} texts embedded. A service with LABELER_EMBEDDINGS_MODEL={name} finds them by meaning.")


def _told(needed: EmbeddingPlan, model: str) -> str:
    cost = "cost unknown" if needed.cost_usd is None else f"${needed.cost_usd:,.4f}"
    return (
        f"{needed.texts:,} texts for {model}: {needed.requests:,} requests, about {needed.tokens_in:,} tokens, {cost}"
    )


def _embed(
    store: Store, sets: Sequence[int], model: str, settings: Settings, asking: Asking, texts_per_request: int, n: int
) -> int:
    from labeler.label_sets.embed import embed_labels
    from labeler.llm.client import OpenAILLM
    from labeler.llm.ledger import MemoryLedger
    from labeler.terminal import progress

    async def run() -> int:
        # Only the embeddings are kept, not the replies that they came in.
        async with OpenAILLM.from_settings(
            settings,
            ledger=MemoryLedger(0),
            concurrency=asking.concurrency,
            budget=asking.budget(),
            models=[model],
            on_retry=RetryTeller(),
        ) as llm:
            done = 0
            for label_set in sets:
                done += await embed_labels(
                    store, label_set, model, llm, texts_per_request, lambda k: bar.advance(task, k)
                )
            return done

    with progress() as bar:
        task = bar.add_task("embed", total=n)
        return asyncio.run(run())
