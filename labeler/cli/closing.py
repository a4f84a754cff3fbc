"""The end of `labeler label`: coverage, scores, best and worst labels, failures, and what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from labeler.cli.options import quoted, same_command, say
from labeler.cli.where import db_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from labeler.store import LabelSetSummary, Store

_SHOWN = 3  # labels shown among the best, and among the worst
_REASONS = 5
_FINAL = ("refused", "malformed")  # kinds of failure whose reply is in the ledger


def tell_label_set(store: Store, label_set: int, evidence: Path, database: str) -> None:
    """Show coverage and scores of the label set, and the commands that show more."""
    from labeler.records import State
    from labeler.terminal import coverage_table, stdout

    summary = store.summary(label_set)
    stdout().print(coverage_table({State(k): n for k, n in summary.counts.items()}))
    for line in score_lines(summary, is_lookup=store.label_set(label_set).explainer == "lookup"):
        say(line)
    # With fewer labels the same ones would be both.
    if summary.n_scored >= 2 * _SHOWN:
        for name, rows in (("best", store.best(label_set, _SHOWN)), ("worst", store.worst(label_set, _SHOWN))):
            for row in rows:
                say(f"{name:<5} {_one_line(row)}")
    say(f"Label set {label_set}, in {shlex.quote(database)}.")
    # Both name the label set: another one may be newer by the time they are pasted.
    of_set = f" --label-set {label_set}"
    say(f"Next: labeler show {quoted(evidence)} FEATURE{of_set}{db_words(database, evidence)}")
    exported = f"labeler export --out labels.parquet{of_set}"
    say(f"      {exported}{db_words(database, beside_url=True)}")


def score_lines(summary: LabelSetSummary, *, is_lookup: bool = False) -> list[str]:
    """Describe the scores of a label set, a line each; no lines where no label has a score."""
    median = summary.medians.get("score")
    if median is None:
        n = sum(summary.undefined.values())
        return [f"No label has a score: {_undefined(summary)}"] if n else []
    interval = (
        "" if median.low is None or median.high is None else f" (95% interval {median.low:.2f} to {median.high:.2f})"
    )
    lines = [f"Median score {median.value:.2f}{interval} over {_many(summary.n_scored, 'label')}"]
    if summary.undefined:
        lines.append(f"Without a score: {_undefined(summary)}")
    if is_lookup:
        lines.append("These are look-up labels: the baseline that labels in words have to beat")
    elif summary.share_beating_baseline is not None and summary.n_compared:
        n = round(summary.share_beating_baseline * summary.n_compared)
        lines.append(f"Better than their look-up baseline: {n:,} of {summary.n_compared:,}")
    if summary.n_discoveries is not None:
        lines.append(f"Better than chance, at a false-discovery rate of 5%: {summary.n_discoveries:,}")
    return lines


def tell_failures(failures: Counter[str]) -> None:
    """Say on stderr why features failed, by kind of reason, and how to try them again."""
    from labeler.terminal import visible

    if not failures:
        return
    by_kind: dict[str, Counter[str]] = {}
    for reason, n in failures.items():
        kind, _colon, detail = reason.partition(": ")
        by_kind.setdefault(kind, Counter())[detail or reason] += n
    for kind, details in sorted(by_kind.items(), key=lambda pair: -pair[1].total())[:_REASONS]:
        example = details.most_common(1)[0][0]
        such_as = ", such as" if len(details) > 1 else ""
        typer.echo(
            f"error: {_many(details.total(), 'feature')} failed: {visible(f'{kind}{such_as}: {example}')}", err=True
        )
    if n_refused := by_kind.get("refused", Counter()).total():
        typer.echo(f"{n_refused:,} of the failures are refusals: another model may answer", err=True)
    n_final = sum(by_kind[kind].total() for kind in _FINAL if kind in by_kind)
    if n_final:
        typer.echo(
            f"{_many(n_final, 'failure')} came from replies that were paid for and are kept, so they will be read again: "
            "another --explainer or --recipe sends new requests",
            err=True,
        )
    if n_final < failures.total():
        typer.echo(
            f"everything paid for is kept; the same command tries the failed features again: {same_command()}",
            err=True,
        )


def _undefined(summary: LabelSetSummary) -> str:
    from labeler.terminal import visible

    return "; ".join(f"{n:,} ({visible(reason)})" for reason, n in Counter(summary.undefined).most_common(_REASONS))


def _one_line(row: Mapping[str, Any]) -> str:
    from labeler.terminal import visible

    low, high = row["score_low"], row["score_high"]
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    return f"{row['feature_index']:>7} {row['score']:6.2f}{interval}  {visible(row['label'] or '')}"


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
