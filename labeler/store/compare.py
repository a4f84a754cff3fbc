"""Two label sets of one SAE side by side: where they agree, and which has the better scores. Computed in the database."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from labeler.errors import MismatchError
from labeler.store.store import Store
from labeler.store.tables import EVIDENCE, LABEL_SETS, RESULTS

A, B = RESULTS.alias("a"), RESULTS.alias("b")


@dataclass(frozen=True)
class Difference:
    feature_index: int
    label_a: str | None
    label_b: str | None
    score_a: float
    score_b: float


@dataclass(frozen=True)
class Comparison:
    """Differences are b - a. Undefined scores are in no number here."""

    a: int
    b: int
    n_both: int  # features that have a result in both
    states: dict[str, dict[str, int]]  # n by the state in a, then by the state in b
    n_same_text: int  # labels that are the same to the letter
    n_scored: int  # features with a score in both
    mean_difference: float | None
    correlation: float | None  # Pearson, of the scores
    n_higher_in_a: int
    n_higher_in_b: int
    n_apart_in_a: int  # higher in a, and the intervals do not touch
    n_apart_in_b: int
    largest: tuple[Difference, ...]  # by the size of the difference, falling


def compare_sets(store: Store, a: int, b: int, limit: int = 20) -> Comparison:
    """Raises NotFoundError, and MismatchError for label sets of different SAEs."""
    store.label_set(a), store.label_set(b)
    with store.database.reading() as connection:
        saes = select(EVIDENCE.c.sae_id).join(LABEL_SETS, LABEL_SETS.c.evidence_id == EVIDENCE.c.id)
        if len(set(connection.execute(saes.where(LABEL_SETS.c.id.in_([a, b]))).scalars())) != 1:
            raise MismatchError(f"label sets {a} and {b} are of different SAEs: their features have nothing in common")
        states = _states(connection, a, b)
        numbers = _numbers(connection, a, b)
        largest = _largest(connection, a, b, limit)
    n_both = sum(n for row in states.values() for n in row.values())
    return Comparison(a, b, n_both, states, largest=largest, **numbers)


def _both(a: int, b: int) -> ColumnElement[bool]:
    return (A.c.label_set_id == a) & (B.c.label_set_id == b) & (A.c.feature_index == B.c.feature_index)


def _states(connection: Connection, a: int, b: int) -> dict[str, dict[str, int]]:
    counted = select(A.c.state, B.c.state, func.count()).where(_both(a, b)).group_by(A.c.state, B.c.state)
    states: dict[str, dict[str, int]] = {}
    for in_a, in_b, n in connection.execute(counted):
        states.setdefault(in_a, {})[in_b] = n
    return states


def _numbers(connection: Connection, a: int, b: int) -> dict[str, Any]:
    same = select(func.count()).where(_both(a, b), A.c.label == B.c.label)
    x, y = A.c.score, B.c.score
    row = connection.execute(
        select(
            func.count(), func.avg(y - x), func.avg(x), func.avg(y), func.avg(x * x), func.avg(y * y), func.avg(x * y),
            func.count().filter(x > y), func.count().filter(y > x),
            func.count().filter(A.c.score_low > B.c.score_high), func.count().filter(B.c.score_low > A.c.score_high),
        ).where(_both(a, b), x.is_not(None), y.is_not(None))
    ).one()  # fmt: skip
    n, difference, *moments = row[:7]
    return {
        "n_same_text": connection.execute(same).scalar_one(), "n_scored": n, "mean_difference": difference,
        "correlation": _correlation(*moments) if n > 2 else None, "n_higher_in_a": row[7], "n_higher_in_b": row[8],
        "n_apart_in_a": row[9], "n_apart_in_b": row[10],
    }  # fmt: skip


def _correlation(x: float, y: float, xx: float, yy: float, xy: float) -> float | None:
    spread = (xx - x * x) * (yy - y * y)
    return (xy - x * y) / math.sqrt(spread) if spread > 1e-18 else None


def _largest(connection: Connection, a: int, b: int, limit: int) -> tuple[Difference, ...]:
    size = func.abs(B.c.score - A.c.score)
    query = (
        select(A.c.feature_index, A.c.label, B.c.label, A.c.score, B.c.score)
        .where(_both(a, b), size > 0)
        .order_by(size.desc(), A.c.feature_index)
        .limit(limit)
    )
    return tuple(Difference(*row) for row in connection.execute(query))
