"""A label set in numbers, computed in the database or streamed: a million rows are never held at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, UnaryExpression, func, select
from sqlalchemy.sql.operators import custom_op

from labeler.records import State
from labeler.score.null import benjamini_hochberg
from labeler.store.tables import RESULTS

N_BINS = 20
FALSE_DISCOVERY_RATE = 0.05
_TIE = 1e-9
_MEDIANS = ("score", "score_weighted", "detection", "fuzzing")  # columns of the results


@dataclass(frozen=True)
class Median:
    """The median of one score over a label set, with a 95% interval; the labels are the unit."""

    value: float
    low: float | None  # None for fewer than 6 labels, between whose scores no 95% interval lies
    high: float | None
    n: int


@dataclass(frozen=True)
class LabelSetSummary:
    """Coverage, scores and cost of a label set."""

    counts: dict[str, int]  # features by state; pending ones have no row
    n_features: int
    n_scored: int
    median_score: float | None
    mean_score: float | None
    histogram: tuple[int, ...]  # scores in 20 equal bins over [-1, 1]
    undefined: dict[str, int]  # labels without a score, by reason
    share_beating_baseline: float | None  # of the labels with a score and a baseline
    n_discoveries: int | None  # labels better than chance at a false-discovery rate of 5%; None without a null
    requests: int
    tokens_in: int
    tokens_out: int
    cost_usd: float | None  # None where any part is unknown
    medians: dict[str, Median] = field(default_factory=dict)  # by column, of those that have a value


def summarise(connection: Connection, label_set_id: int, n_features: int) -> LabelSetSummary:
    result = RESULTS.c
    here = result.label_set_id == label_set_id
    scored = here & result.score.is_not(None)
    # For columns that stand in no index: SQLite, left alone, goes by the index of scores and fetches each row from
    # another place, which takes ten times as long as reading the table from its beginning to its end.
    in_order = here & (result.feature_index >= 0)
    scored_in_order = in_order & UnaryExpression(result.score, operator=custom_op("+")).is_not(None)

    def one(*columns: Any, where: Any = here) -> tuple[Any, ...]:
        return tuple(connection.execute(select(*columns).where(where)).one())

    by_state: dict[str, int] = dict(
        connection.execute(select(result.state, func.count()).where(here).group_by(result.state)).all()
    )
    counts = {str(state): by_state.get(str(state), 0) for state in State}
    counts[State.PENDING] = n_features - sum(by_state.values())
    medians = {name: m for name in _MEDIANS if (m := _median(connection, here, result[name])) is not None}
    n_scored, mean = one(func.count(), func.avg(result.score), where=scored)
    undefined = select(result.score_reason, func.count()).where(in_order & result.score_reason.is_not(None))
    n_compared, n_beating = one(
        func.count(), func.count().filter(result.score > result.baseline_token_lookup + _TIE),
        where=scored_in_order & result.baseline_token_lookup.is_not(None),
    )  # fmt: skip
    usage = one(
        func.coalesce(func.sum(result.requests), 0), func.coalesce(func.sum(result.tokens_in), 0),
        func.coalesce(func.sum(result.tokens_out), 0), func.sum(result.cost_usd),
        func.count().filter(result.cost_usd.is_(None)), where=in_order,
    )  # fmt: skip
    p_values = [
        p
        for (p,) in connection.execute(
            select(result.score_null_p).where(scored_in_order & result.score_null_p.is_not(None))
        )
    ]
    return LabelSetSummary(
        counts, n_features, n_scored, medians["score"].value if "score" in medians else None,
        None if mean is None else float(mean),
        _histogram(connection, scored), dict(connection.execute(undefined.group_by(result.score_reason)).all()),
        n_beating / n_compared if n_compared else None,
        sum(q is not None and q <= FALSE_DISCOVERY_RATE for q in benjamini_hochberg(p_values)) if p_values else None,
        int(usage[0]), int(usage[1]), int(usage[2]), None if usage[4] else float(usage[3] or 0.0),
        medians,
    )  # fmt: skip


def _median(connection: Connection, here: Any, score: Any) -> Median | None:
    """In the database, by order statistics: the interval that the bootstrap of a median tends to, without drawing it.

    The k-th lowest and the k-th highest score hold the median between them unless fewer than k of n fall on one side,
    which has the binomial probability P(B(n, 1/2) < k).
    """
    defined = here & score.is_not(None)
    n = int(connection.execute(select(func.count()).where(defined)).scalar_one())
    if n == 0:
        return None

    def lowest(rank: int, count: int = 1) -> float:
        values = connection.execute(select(score).where(defined).order_by(score).offset(rank - 1).limit(count))
        return float(sum(v for (v,) in values) / count)

    middle, k = lowest((n + 1) // 2, 2 - n % 2), _outermost(n)
    return Median(middle, lowest(k) if k else None, lowest(n + 1 - k) if k else None, n)


def _outermost(n: int) -> int:
    """The largest k with P(B(n, 1/2) < k) <= .025; 0 where even the lowest and the highest are too near."""
    if n > 1000:
        return math.floor((n + 1 - 1.959964 * math.sqrt(n)) / 2.0)
    tail, k = 0, 0
    while (tail := tail + math.comb(n, k)) <= 0.025 * 2**n:
        k += 1
    return k


def named_scores(connection: Connection, label_set_id: int, name: str) -> tuple[list[float], dict[str, int]]:
    """The values of a score that has no column of its own, and how often it was undefined, by reason."""
    values: list[float] = []
    reasons: dict[str, int] = {}
    query = select(RESULTS.c.scores).where(
        RESULTS.c.label_set_id == label_set_id, RESULTS.c.state == str(State.LABELED)
    )
    for (scores,) in connection.execution_options(yield_per=1000).execute(query):
        for score in scores:
            if score["name"] == name:
                if score["value"] is None:
                    reasons[score["reason"]] = reasons.get(score["reason"], 0) + 1
                else:
                    values.append(float(score["value"]))
    return values, reasons


def _histogram(connection: Connection, scored: Any) -> tuple[int, ...]:
    score = RESULTS.c.score
    bins = [0] * N_BINS
    for (value,) in connection.execution_options(yield_per=5000).execute(select(score).where(scored)):
        bins[min(N_BINS - 1, int((value + 1.0) / 2.0 * N_BINS))] += 1
    return tuple(bins)
