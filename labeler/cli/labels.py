"""Commands that make and show labels: demo, label, show, sets."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labeler.cli.app import app, stoppable
from labeler.cli.closing import tell_failures, tell_label_set
from labeler.cli.options import (
    Asking,
    BaseUrl,
    BudgetTokens,
    BudgetUsd,
    Concurrency,
    Database,
    Explainer,
    Json,
    RecipeName,
    Simulator,
    check_out_folder,
    gather_progress,
    llm_for,
    quoted,
    recipe_of,
    same_command,
    say,
    settings_with,
    store_at,
)
from labeler.cli.planning import show_plan
from labeler.cli.where import database_of, db_words, new_database, removed_if_unused
from labeler.evidence.progress import step

if TYPE_CHECKING:
    from labeler.llm.batch import Batches
    from labeler.llm.client import OpenAILLM
    from labeler.recipe import Recipe
    from labeler.records import LabeledFeature
    from labeler.store import LabelSetInfo, LabelSetSummary, Store


_DATABASE_PATIENCE = 30.0  # seconds to wait for a database server that restarts, since replies are on their way


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for all results.")] = Path("demo-out"),
    tokens: Annotated[int, typer.Option(min=10_000, help="Corpus tokens to read.")] = 500_000,
    recipe: RecipeName = None,
    explainer: Explainer = None,
    simulator: Simulator = None,
    base_url: BaseUrl = None,
    features: Annotated[str, typer.Option(metavar="SPEC", help="As in `labeler label`.")] = "all",
    concurrency: Concurrency = 16,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
) -> None:
    """Label a small model of Python code, shipped with this package, on your own standard library. It needs no network."""
    asking = Asking(base_url, concurrency, budget_usd, budget_tokens)
    chosen = recipe_of(explainer, simulator, recipe)
    asking.check(chosen)  # report a mistake now, not after the gathering pass
    check_out_folder(out)
    from labeler.terminal import stdout

    began = time.monotonic()

    def kept() -> str:
        return f"all gathered evidence is kept in {out}; the same command goes on: {same_command()}"

    with stoppable(kept), gather_progress() as on_progress:
        with step(on_progress, "load torch"):
            from labeler.cli.demo import finish_demo, gather_demo
        evidence = gather_demo(out, tokens, on_progress)
    database = str(out / "labeler.db")
    label_set, counts = _label(evidence, features, chosen, database, asking)
    finish_demo(out, evidence, database, label_set, stdout())
    say(
        f"\n{time.monotonic() - began:.0f} s. Open {out}/report.html in a browser. The label set is in {out}/labels.jsonl, .csv and "
        f".parquet, and {out}/labels.jsonl.card.md says how it was made.\n"
        f"One feature: labeler show {quoted(evidence)} 0{db_words(database, evidence)}\n"
        f"As pages, with search and review: labeler up --data {quoted(out)}"
    )
    if counts.get("failed"):
        raise typer.Exit(4)


@app.command()
def label(
    evidence: Annotated[Path, typer.Argument(help="A folder written by `labeler gather`.")],
    features: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="`all`, `0-999`, `1,5,9`, `@FILE`, or `unlabeled`. Features that have a result are never done again.",
        ),
    ] = "all",
    recipe: RecipeName = None,
    explainer: Explainer = None,
    simulator: Simulator = None,
    base_url: BaseUrl = None,
    db: Database = None,
    concurrency: Concurrency = 16,
    budget_usd: BudgetUsd = None,
    budget_tokens: BudgetTokens = None,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch",
            help="Send requests by OpenAI's Batch API: half the price, answered within a day. It may be stopped at any "
            "moment; the same command waits on.",
        ),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the requests, tokens and cost that it would take, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a label for each feature and score it on documents that the explainer never saw."""
    asking = Asking(base_url, concurrency, budget_usd, budget_tokens, batch)
    chosen = recipe_of(explainer, simulator, recipe)
    if plan:
        show_plan(evidence, features, chosen, asking, db, as_json)
        return
    if recipe is None and chosen.models:
        typer.echo(
            f"Labels are made and tested in the default way (recipe {chosen.hash}); `labeler recipes` lists others for --recipe",
            err=True,
        )
    label_set_id, counts = _label(evidence, features, chosen, db, asking)
    store = store_at(db, evidence)
    if as_json:
        from dataclasses import asdict

        summary = asdict(store.summary(label_set_id))
        typer.echo(json.dumps({"label_set": label_set_id, "now": counts, "summary": summary}, default=str))
    else:
        tell_label_set(store, label_set_id, evidence, database_of(db, evidence))
        if n_kept := counts.get("kept_lookup"):
            say(f"{n_kept:,} of them kept their look-up label by the recipe's triage, without asking an LLM.")
        if n_by_others := counts.get("by_other_runs"):
            say(f"{n_by_others:,} of them were labeled by another run meanwhile, and paid for there.")
    if counts.get("failed"):
        raise typer.Exit(4)


def _label(
    evidence: Path,
    features: str,
    recipe: Recipe,
    db: str | None,
    asking: Asking,
) -> tuple[int, dict[str, int]]:
    """Label the features without a result; return the label set's id and the number of features in each state."""
    from labeler.evidence.store import EvidenceFolder
    from labeler.label_sets.batches import label_in_batches
    from labeler.label_sets.ending import Ending
    from labeler.label_sets.label_sets import LabelSetToMake
    from labeler.label_sets.missing import label_missing
    from labeler.label_sets.processes import processes_worth
    from labeler.label_sets.share import Hands, Sharing
    from labeler.selection import parse_features
    from labeler.store import open_store
    from labeler.store.base.ledger import SqlLedger
    from labeler.terminal import progress

    folder = EvidenceFolder(evidence)
    wanted = parse_features(features, folder.n_features)
    asking.check(recipe)
    settings = settings_with(asking.base_url)
    database = new_database(db, evidence)
    counts: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    with ExitStack() as stack:
        # A key or an endpoint that does not work must not leave an empty database for other commands to find.
        stack.enter_context(removed_if_unused(database))
        # Closed at the end: what SQLite keeps beside the file until then would not go along with a copy of it.
        # Pooled connections are safe here: the processes that share look-ups are spawned, not forked.
        store = stack.enter_context(closing(open_store(database, pooled=True)))
        bar = stack.enter_context(progress())
        label_set = LabelSetToMake(store, folder, recipe)
        task = bar.add_task("label", total=len(wanted))

        def on_result(result: LabeledFeature) -> None:
            counts[str(result.state)] += 1
            if result.origin is not None and not result.origin.asked_llm:
                counts["kept_lookup"] += 1
            if result.state == "failed":
                failures[str(result.reason)] += 1
            bar.advance(task)

        def on_start(done: int, _wanted: int) -> None:
            bar.update(task, completed=done, before=done)

        def on_wait(hands: Hands) -> None:
            who = f" ({', '.join(hands.holders)})" if hands.holders else ""
            typer.echo(
                f"{hands.n_features:,} features are being labeled by another run{who}; this one waits for them, and asks "
                "nothing for them again",
                err=True,
            )

        def on_done_by_others(n: int) -> None:
            counts["by_other_runs"] += n
            bar.advance(task, n)

        sharing = Sharing(settings.lease_seconds, on_wait=on_wait, on_done_by_others=on_done_by_others)

        ledger = SqlLedger(store)
        store.database.patience = _DATABASE_PATIENCE

        async def work(llm: OpenAILLM | None) -> None:
            if asking.batch and llm is not None:
                batches = _batches(llm, store, bar)
                await label_in_batches(
                    folder,
                    wanted,
                    recipe,
                    llm,
                    batches,
                    store,
                    label_set,
                    on_result=on_result,
                    on_start=on_start,
                    sharing=sharing,
                )
            else:
                await label_missing(
                    folder,
                    wanted,
                    recipe,
                    llm,
                    store,
                    label_set,
                    at_once=asking.concurrency,
                    on_result=on_result,
                    on_start=on_start,
                    n_processes=processes_worth(len(wanted), os.cpu_count() or 1),
                    sharing=sharing,
                )

        with stoppable(lambda: _kept(counts, store.database.name)):
            Ending(store, ledger).run(work, lambda: llm_for(recipe, asking, settings, store, ledger))
        label_set_id = label_set.make().id
    tell_failures(failures)
    return label_set_id, dict(counts)


def _kept(counts: Counter[str], database: str) -> str:
    n = sum(n for state, n in counts.items() if state != "kept_lookup")
    return (
        f"{n:,} features of this run are saved in {database}, with every reply that was paid for; the same command goes on: "
        f"{same_command()}"
    )


def _batches(llm: OpenAILLM, store: Store, bar: Any) -> Batches:
    from labeler.llm.batch import Batches, Progress
    from labeler.store.base.batches import SqlJournal

    task = bar.add_task("batches", total=None)

    def show(progress: Progress) -> None:
        words = f"{progress.n_batches} batches" if progress.n_batches != 1 else "1 batch"
        bar.update(task, description=words, completed=progress.n_answered, total=progress.n_requests)

    return Batches(llm, SqlJournal(store), on_progress=show)


@app.command()
def show(
    evidence: Annotated[Path, typer.Argument(help="A folder written by `labeler gather`.")],
    feature: Annotated[int, typer.Argument(min=0, help="The feature's index.")],
    db: Database = None,
    label_set: Annotated[
        int | None,
        typer.Option(
            help="The label set. Default: of those that label this feature, the one with the most labels; an LLM's before a look-up."
        ),
    ] = None,
    contexts: Annotated[int, typer.Option(min=1, max=40, help="Contexts shown per group.")] = 5,
    as_json: Json = False,
) -> None:
    """Show one feature: label, scores, and its contexts with painted tokens."""
    from labeler.evidence.store import EvidenceFolder
    from labeler.views import describe_feature, feature_view

    folder = EvidenceFolder(evidence)
    folder.check(feature)
    store = _store_to_show(db, evidence, label_set)
    view = feature_view(folder, feature, store, label_set)
    if as_json:
        typer.echo(json.dumps(describe_feature(view)))
        return
    from labeler.terminal import feature_panel, stdout
    from labeler.views import in_characters, result_in_characters

    explained = [in_characters(context, folder.vocabulary) for context in view.explain]
    result = result_in_characters(view.result, folder.vocabulary)
    stdout().print(feature_panel(result, contexts, explained=explained))
    say(
        "No label set of this evidence."
        if store is None or view.label_set is None
        else _which_set(store, view.label_set)
    )


def _which_set(store: Store, label_set: int) -> str:
    from labeler.terminal import visible

    info = store.label_set(label_set)
    return f"From label set {info.id}, by {visible(info.explainer)}. `labeler sets` lists all; --label-set ID chooses."


def _store_to_show(db: str | None, evidence: Path, label_set: int | None) -> Store | None:
    """Open the store, or return None where nothing is labeled yet: contexts can be shown before that."""
    from labeler.cli.where import file_of, holding

    path = file_of(database_of(db, evidence))
    nothing_yet = path is not None and not path.exists() and not holding(evidence)
    if nothing_yet and db is None and label_set is None and not os.environ.get("LABELER_DB"):
        typer.echo(f"nothing is labeled yet: there is no {path}; `labeler label {quoted(evidence)}` makes it", err=True)
        return None
    return store_at(db, evidence)


@app.command()
def sets(db: Database = None, as_json: Json = False) -> None:
    """List the label sets in the database: coverage, scores, cost."""
    from dataclasses import asdict

    from labeler.store.label_sets.choice import default_set

    store = store_at(db)
    infos = store.label_sets()
    if as_json:
        speaks = default_set(store)
        rows = [
            {**asdict(i), "name": i.name, "default": i.id == speaks, "summary": asdict(store.summary(i.id))}
            for i in infos
        ]
        typer.echo(json.dumps(rows, default=str))
        return
    from labeler.terminal import label_sets_table, stdout

    if not infos:
        say("No label sets yet. Make one with `labeler gather` and `labeler label`, or try `labeler demo`.")
        return
    console = stdout()
    with console.capture() as drawn:
        console.print(
            label_sets_table([_set_row(store, i, store.summary(i.id)) for i in infos]), width=min(80, console.width)
        )
    for line in drawn.get().splitlines():
        say(line.rstrip())
    say(f"Where none is named, label set {default_set(store)} is used: it has the most labels.")


def _set_row(store: Store, info: LabelSetInfo, summary: LabelSetSummary) -> dict[str, Any]:
    from labeler.names import corpus_name
    from labeler.store.label_sets.imported import is_imported

    manifest, recipe = store.manifest_of(info.id), store.recipe_of(info.id)
    came = manifest.get("imported")
    where = (
        f"imported from {came['file']}" if came and is_imported(info.evidence_path) else Path(info.evidence_path).name
    )
    return {
        "id": info.id,
        "name": info.name,
        "hookpoint": info.hookpoint,
        "explainer": info.explainer + (" (imported)" if came else ""),
        "simulator": info.simulator,
        "evidence": f"{info.evidence_id}, {where}",
        "corpus": corpus_name(str((manifest.get("corpus") or {}).get("spec") or "")),
        "recipe": f"{info.recipe_hash} ({recipe['explainer']['prompt_version']})",
        "n_labeled": summary.counts.get("labeled", 0),
        "n_failed": summary.counts.get("failed", 0),
        "n_features": info.n_features,
        "median_score": summary.median_score,
        "cost_usd": summary.cost_usd,
        "created_at": info.created_at,
    }
