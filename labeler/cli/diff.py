"""`labeler diff A B` compares two label sets of one SAE side by side."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import app
from labeler.cli.options import Database, Json, say, store_at

if TYPE_CHECKING:
    from labeler.store.label_sets.compare import Comparison, Difference

DIFFERENT = 6  # exit code with --exit-code

LabelSet = Annotated[
    str, typer.Argument(metavar="SET|FILE", help="The id of a label set, or a file of `labeler export`.")
]


@app.command()
def diff(
    a: LabelSet,
    b: LabelSet,
    limit: Annotated[int, typer.Option(min=0, max=500, help="Number of the largest score differences to show.")] = 20,
    score: Annotated[
        str, typer.Option(help="The score to compare: score, detection, or another column of an export.")
    ] = "score",
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 6 if labels, states or scores differ, else with 0.")
    ] = False,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Compare two label sets of one SAE: states, labels, scores, and where they differ most. Differences are B − A.

    The exit code is 0 even if they differ; with --exit-code, it is 6 if they differ.
    """
    from labeler.imports.compare import compare

    needs_database = a.isdecimal() or b.isdecimal()
    found = compare(a, b, store_at(db) if needs_database else None, limit, score)
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({**asdict(found), "a": a, "b": b, "same": same(found)}))
    else:
        _tell(found, a, b)
    if exit_code and not same(found):
        raise typer.Exit(DIFFERENT)


def same(found: Comparison) -> bool:
    """Say whether all features have the same state, label and score in both label sets."""
    in_one_state = sum(states.get(state, 0) for state, states in found.states.items())
    return (
        found.n_only_in_a == found.n_only_in_b == found.n_higher_in_a == found.n_higher_in_b == 0
        and in_one_state == found.n_both
        and found.n_same_text == found.states.get("labeled", {}).get("labeled", 0)
        and found.n_scored_in_one == 0
    )


def _tell(found: Comparison, a: str, b: str) -> None:
    say(
        f"A is {a}, B is {b}: {found.n_both:,} features have a result in both, {found.n_only_in_a:,} only in A, "
        f"{found.n_only_in_b:,} only in B"
    )
    for state, others in sorted(found.states.items()):
        in_b = ", ".join(f"{n:,} {other}" for other, n in sorted(others.items()))
        say(f"{state} in A: {in_b} in B")
    both = found.states.get("labeled", {}).get("labeled", 0)
    say(f"exactly the same label: {found.n_same_text:,} of {both:,}")
    _tell_scores(found)
    if found.largest:
        from labeler.terminal import stdout

        stdout().print(_table(found.largest))


def _tell_scores(found: Comparison) -> None:
    if found.mean_difference is None:
        say("no feature has a score in both")
        return
    interval = found.mean_interval
    within = "" if interval is None else f" (95% interval {interval[0]:+.3f} to {interval[1]:+.3f})"
    alike = "" if found.correlation is None else f"; the scores correlate by {found.correlation:.2f}"
    name = "scores" if found.score == "score" else f"{found.score}"
    say(f"{name} of {found.n_scored:,} features: B − A is {found.mean_difference:+.3f} on average{within}{alike}")
    say(
        f"higher in A: {found.n_higher_in_a:,}, of which {found.n_apart_in_a:,} with intervals apart; "
        f"higher in B: {found.n_higher_in_b:,}, of which {found.n_apart_in_b:,}"
    )
    if found.n_scored_in_one:
        say(f"a score in only one of them: {found.n_scored_in_one:,} features")


def _table(largest: tuple[Difference, ...]) -> object:
    from rich.table import Table
    from rich.text import Text

    from labeler.terminal import visible

    table = Table("feature", "A", "B", "B − A", "label in A", "label in B", box=None)
    for d in largest:
        table.add_row(
            str(d.feature_index),
            _score(d.score_a, d.interval_a),
            _score(d.score_b, d.interval_b),
            f"{d.score_b - d.score_a:+.2f}",
            Text(visible(d.label_a or "")),
            Text(visible(d.label_b or "")),
        )
    return table


def _score(score: float, interval: tuple[float, float] | None) -> str:
    return f"{score:.2f}" + ("" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})")
