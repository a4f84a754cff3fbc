"""`labeler jobs ...` submits, shows and changes jobs, in the database or at a running service."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labeler.cli.app import Words, app, stoppable
from labeler.cli.job_backend import Found, job_backend
from labeler.cli.options import Database, Explainer, Json, RecipeName, Simulator, Url, quoted, say
from labeler.cli.where import database_of, db_words

if TYPE_CHECKING:
    from labeler.rest_schema import Job, Progress
    from labeler.store.jobs.progress import JobProgress
    from labeler.store.jobs.states import JobInfo

jobs = Words(name="jobs", help="Jobs for the service: submit them, watch them, change them.", no_args_is_help=True)
app.add_typer(jobs)

JobId = Annotated[int, typer.Argument(min=1, metavar="JOB", help="The job's number.")]
IdempotencyKey = Annotated[str | None, typer.Option(metavar="KEY", help="The same key asks for the same job.")]
Priority = Annotated[int, typer.Option(min=0, max=9, help="0 goes first, 9 last.")]


@jobs.command()
def submit(
    evidence: Annotated[
        str,
        typer.Argument(
            help="A folder written by `labeler gather`, as the workers see it; for a service, a folder in its data folder, or the "
            "evidence's id or hash."
        ),
    ],
    features: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="`all`, `0-999`, `1,5,9`, `@FILE`, `unlabeled`, `state=failed`, `density>1e-5`, `score<0.2`, joined by `and`.",
        ),
    ] = "all",
    recipe: RecipeName = None,
    explainer: Explainer = None,
    simulator: Simulator = None,
    scores_of: Annotated[
        int | None,
        typer.Option(
            metavar="LABEL_SET",
            help="The label set whose scores `score<...` compares. Default: the other one of this evidence with the most labels.",
        ),
    ] = None,
    priority: Priority = 5,
    budget_usd: Annotated[float | None, typer.Option(help="Stop before more is spent.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="Stop before more tokens are used.")] = None,
    idempotency_key: IdempotencyKey = None,
    db: Database = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a job that labels features of an evidence folder. Returns at once."""
    with job_backend(db, url, evidence) as desk:
        found = desk.submit(
            evidence,
            features,
            recipe,
            explainer=explainer,
            simulator=simulator,
            scores_of=scores_of,
            priority=priority,
            budget_usd=budget_usd,
            budget_tokens=budget_tokens,
            idempotency_key=idempotency_key,
        )
    _show(found, as_json)
    if not as_json:
        say(f"Next: {_watch_again(found[0].id, db, url, evidence)}")


@jobs.command()
def gather(
    subject: Annotated[str, typer.Option(help="A transformers model: a local folder or a hub id.")],
    sae: Annotated[
        str, typer.Option(help="An SAE: a file or folder, `hf:REPO/PATH`, `sae-lens:RELEASE/ID`, or `neurons`.")
    ],
    corpus: Annotated[str, typer.Option(help="The hookpoint, as in `labeler gather`.")],
    out: Annotated[
        str,
        typer.Option(
            metavar="EVIDENCE", help="The evidence folder, as the workers see it; for a service, in its data folder."
        ),
    ],
    hookpoint: Annotated[str | None, typer.Option(metavar="PATH", help="Default: the one in the SAE's file.")] = None,
    revision: Annotated[str | None, typer.Option(help="The subject's hub revision.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after this many corpus tokens.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    sequence_tokens: Annotated[int, typer.Option(min=32, help="Tokens the subject reads at a time.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the split and the samples.")] = 0,
    shards: Annotated[int, typer.Option(min=1, help="Parts of the corpus that workers read in parallel.")] = 1,
    force: Annotated[
        bool,
        typer.Option("--force", help="Gather also where the SAE explains so little that it may read another vector."),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The names to show: `SUBJECT / SAE`. Default: hub ids, or the last folders."),
    ] = None,
    priority: Priority = 5,
    idempotency_key: IdempotencyKey = None,
    db: Database = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Submit a job that gathers evidence. Returns at once."""
    with job_backend(db, url, out) as desk:
        found = desk.gather(
            subject=subject,
            sae=sae,
            corpus=corpus,
            out=out,
            hookpoint=hookpoint,
            revision=revision,
            n_tokens=tokens,
            dtype=dtype,
            sequence_tokens=sequence_tokens,
            seed=seed,
            n_shards=shards,
            force=force,
            name=name,
            priority=priority,
            idempotency_key=idempotency_key,
        )
    _show(found, as_json)
    if not as_json:
        say(f"Next: {_watch_again(found[0].id, db, url, out)}")


@jobs.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    db: Database = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """List the newest jobs."""
    with job_backend(db, url) as desk:
        found = desk.newest(limit)
    if as_json:
        typer.echo(json.dumps([_described(*pair) for pair in found], default=str))
        return
    for info, progress in found:
        say(_line(info, progress))
    if not found:
        say("No jobs yet. Ask for one with `labeler jobs submit EVIDENCE`.")


@jobs.command()
def show(job: JobId, db: Database = None, url: Url = None, as_json: Json = False) -> None:
    """Show one job: its progress, its cost and its failures."""
    from labeler.terminal import visible

    with job_backend(db, url) as desk:
        _show(desk.job(job), as_json)
        for failure in () if as_json else desk.failures(job, limit=10):
            say(f"  feature {failure.feature_index}: {visible(failure.reason)}")


@jobs.command()
def watch(
    job: JobId,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 1.0,
    db: Database = None,
    url: Url = None,
) -> None:
    """Follow a job to its end. The exit code is 0 only if the job is done and nothing failed."""
    from labeler.terms import ACTIVE

    before = ""
    words = f"only watching: job {job} goes on, and its state is kept; watch it again with {_watch_again(job, db, url)}"
    with stoppable(lambda: words), job_backend(db, url) as desk:
        while True:
            info, progress = desk.job(job)
            if (line := _line(info, progress)) != before:
                say(line)
                before = line
            if info.state not in ACTIVE:
                break
            time.sleep(every)
    if info.state != "done" or progress.counts["failed"]:
        raise typer.Exit(4)


@jobs.command()
def pause(job: JobId, db: Database = None, url: Url = None, as_json: Json = False) -> None:
    """Start no more blocks of this job; `resume` goes on."""
    _change(job, "pause", db, url, as_json)


@jobs.command()
def resume(job: JobId, db: Database = None, url: Url = None, as_json: Json = False) -> None:
    """Go on with a paused job."""
    _change(job, "resume", db, url, as_json)


@jobs.command()
def cancel(job: JobId, db: Database = None, url: Url = None, as_json: Json = False) -> None:
    """Stop a job for good. Its labels stay, and `retry` takes up the rest."""
    _change(job, "cancel", db, url, as_json)


@jobs.command()
def retry(job: JobId, db: Database = None, url: Url = None, as_json: Json = False) -> None:
    """Try failed features of an ended job again, and finish a canceled one."""
    _change(job, "retry", db, url, as_json)


def _change(job: int, word: str, db: str | None, url: str | None, as_json: bool) -> None:
    with job_backend(db, url) as desk:
        _show(desk.change(job, word), as_json)


def _watch_again(job: int, db: str | None, url: str | None, evidence: str | None = None) -> str:
    """Return the command that watches this job, with the options that find it."""
    command = f"labeler jobs watch {job}"
    if url is not None:
        return command if url == os.environ.get("LABELER_URL") else f"{command} --url {quoted(url)}"
    return command + db_words(database_of(db, None if evidence is None else Path(evidence)), beside_url=True)


def _show(found: Found, as_json: bool) -> None:
    info, progress = found
    if as_json:
        typer.echo(json.dumps(_described(info, progress), default=str))
        return
    from labeler.terminal import visible

    say(_line(info, progress))
    if info.reason:
        say(f"  {visible(info.reason)}")
    for kind, n in progress.errors.items():
        say(f"  {n} features failed: {visible(kind)}")


def _described(info: JobInfo | Job, progress: JobProgress | Progress) -> dict[str, Any]:
    return {**vars(info), "progress": dict(vars(progress))}


def _line(info: JobInfo | Job, progress: JobProgress | Progress) -> str:
    from labeler.terminal import visible

    if info.kind == "gather":
        done = f"{progress.blocks['done']} of {info.n_blocks} steps"
    else:
        counts = ", ".join(f"{n:,} {state}" for state, n in progress.counts.items() if n)
        done = f"{counts} of {info.n_features:,} features"
    cost = "" if not progress.requests else f"; {progress.requests:,} requests, {_money(progress)}"
    left = f"; {_span(progress.seconds_left)} left" if info.state == "running" and progress.seconds_left else ""
    # Why it stands still: a key that was revoked, a budget that is spent.
    why = f"; {visible(info.reason)}" if info.reason and info.state not in ("queued", "running") else ""
    return f"job {info.id} {info.kind} {info.state}: {done}{cost}{left}{why}"


def _money(progress: JobProgress | Progress) -> str:
    tokens = f"{progress.tokens_in + progress.tokens_out:,} tokens"
    return f"{tokens}, price unknown" if progress.cost_usd is None else f"{tokens}, USD {progress.cost_usd:.4f}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
