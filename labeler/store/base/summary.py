"""A label set in numbers, from its columns. A million features take a moment, and an unchanged set no time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Connection

from labeler.records import State
from labeler.schema import MAIN, Use, column_of, in_order, named, score_columns
from labeler.store.base.columns import (
    Columns,
    bring_up_to_date,
    changed_parts,
    keep_whole,
    read_columns,
    scores_in,
    version_of,
    whole,
)
from labeler.store.base.database import Database

N_BINS = 20
FALSE_DISCOVERY_RATE = 0.05
_KEPT = "summary"


@dataclass(frozen=True)
class Median:
    """The median of one score over a label set, with a 95% interval; the labels are the unit."""

    value: float
    low: float | None  # None for fewer than 6 labels: no 95% interval lies between their scores
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
    n_discoveries: int | None  # labels above chance at a false-discovery rate of 5%; None without a null
    requests: int
    tokens_in: int
    tokens_out: int
    cost_usd: float | None  # None where any part is unknown
    medians: dict[str, Median] = field(default_factory=dict)  # by column, where it has a value
    n_compared: int | None = None  # labels with a score and a baseline; None in a summary that an older version kept


def summarise(database: Database, label_set_id: int, n_features: int) -> LabelSetSummary:
    """Sum up the present results. The summary is kept, and is valid until a result changes."""
    with database.reading() as connection:
        # In this order: where nothing is marked, the columns are as new as this moment.
        if not changed_parts(connection, label_set_id):
            kept = whole(connection, label_set_id, _KEPT)
            if kept is not None and (stored := orjson.loads(kept))["version"] == version_of(connection, label_set_id):
                return _from_dict(stored["summary"], n_features)
    bring_up_to_date(database, label_set_id)
    with database.reading() as connection:
        columns = read_columns(connection, label_set_id, [*_summarized(connection, label_set_id), "score_null_p"])
    summary = _summary(columns, n_features)
    with database.writing() as connection:
        keep_whole(
            connection, label_set_id, _KEPT, orjson.dumps({"version": columns.version, "summary": asdict(summary)})
        )
    return summary


def _summarized(connection: Connection, label_set_id: int) -> list[str]:
    """List the columns that have a median: one for each score that the label set has, and always the main score."""
    scores = in_order({MAIN, *scores_in(connection, label_set_id)})
    return list(named(Use.SUMMARIZED, (column for name in scores for column in score_columns(name))))


def _from_dict(stored: dict[str, Any], n_features: int) -> LabelSetSummary:
    medians = {name: Median(**median) for name, median in stored.pop("medians").items()}
    return LabelSetSummary(
        **{**stored, "histogram": tuple(stored["histogram"]), "n_features": n_features}, medians=medians
    )


def _summary(columns: Columns, n_features: int) -> LabelSetSummary:
    figures = columns.figures
    by_state: Counter[str] = sum((Counter(f["states"]) for f in figures), Counter())
    counts = {str(state): by_state.get(str(state), 0) for state in State}
    counts[State.PENDING] = n_features - by_state.total()
    values = {name: array[~np.isnan(array)] for name, array in columns.arrays.items()}
    medians = {name: m for name, v in values.items() if name != "score_null_p" and (m := median_of(v)) is not None}
    n_scored, n_compared = values["score"].size, sum(f["n_compared"] for f in figures)
    return LabelSetSummary(
        counts=counts,
        n_features=n_features,
        n_scored=n_scored,
        median_score=medians["score"].value if "score" in medians else None,
        mean_score=math.fsum(f["score_sum"] for f in figures) / n_scored if n_scored else None,
        histogram=_histogram(values["score"]),
        undefined=columns.undefined(MAIN),
        share_beating_baseline=sum(f["n_beating"] for f in figures) / n_compared if n_compared else None,
        n_discoveries=_discoveries(values["score_null_p"]),
        requests=sum(f["requests"] for f in figures),
        tokens_in=sum(f["tokens_in"] for f in figures),
        tokens_out=sum(f["tokens_out"] for f in figures),
        cost_usd=None if any(f["n_unpriced"] for f in figures) else math.fsum(f["cost_usd"] for f in figures),
        medians=medians,
        n_compared=n_compared,
    )


def median_of(values: np.ndarray) -> Median | None:
    """Return the median with the interval that its bootstrap tends to, computed from order statistics.

    The k-th lowest and the k-th highest score hold the median between them unless fewer than k of n fall on one side,
    which has the binomial probability P(B(n, 1/2) < k).
    """
    n = values.size
    if n == 0:
        return None
    k = _outermost(n)
    places = [(n - 1) // 2, n // 2, *([k - 1, n - k] if k else [])]
    found = np.partition(values, places)[places].tolist()
    low, high = found[2:] or (None, None)
    return Median((found[0] + found[1]) / 2, low, high, n)


def _outermost(n: int) -> int:
    """Return the largest k with P(B(n, 1/2) < k) <= .025; 0 where even the extreme scores are too near."""
    if n > 1000:
        return math.floor((n + 1 - 1.959964 * math.sqrt(n)) / 2.0)
    tail, k = 0, 0
    while (tail := tail + math.comb(n, k)) <= 0.025 * 2**n:
        k += 1
    return k


def score_values(database: Database, label_set_id: int, name: str) -> tuple[list[float], dict[str, int]]:
    """Return the values of a score in the order of features, and count the reasons of undefined ones."""
    bring_up_to_date(database, label_set_id)
    column = column_of(name)
    with database.reading() as connection:
        columns = read_columns(connection, label_set_id, [column])
    values = columns.arrays[column]
    return values[~np.isnan(values)].tolist(), columns.undefined(name)


def _discoveries(p_values: np.ndarray) -> int | None:
    """Count the p-values with a false-discovery rate of 5% or less (Benjamini and Hochberg 1995); None without any.

    These are the k lowest p-values. k is the largest with p_k * m / k at that rate, so no p-value above the rate is
    among them.
    """
    m = p_values.size
    if m == 0:
        return None
    lowest = np.sort(p_values[p_values <= FALSE_DISCOVERY_RATE])
    good = np.flatnonzero(lowest * m / np.arange(1, lowest.size + 1) <= FALSE_DISCOVERY_RATE)
    return int(good[-1]) + 1 if good.size else 0


def _histogram(scores: np.ndarray) -> tuple[int, ...]:
    bins = np.minimum(N_BINS - 1, ((scores + 1.0) / 2.0 * N_BINS).astype(np.int64))
    return tuple(np.bincount(bins, minlength=N_BINS).tolist())
