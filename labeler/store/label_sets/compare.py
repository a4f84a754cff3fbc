"""Two label sets of one SAE side by side: where they agree, and which has the higher scores. Read from their columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from pydantic import TypeAdapter
from sqlalchemy import Connection, select

from labeler.errors import InputError, MismatchError
from labeler.schema import FIXED, MAIN, Use, column_of, in_order, named, score_columns
from labeler.store.base.columns import (
    STATES,
    bring_up_to_date,
    keep_whole,
    read_columns,
    scores_in,
    version_of,
    whole,
)
from labeler.store.base.store import Store
from labeler.store.base.summary import Median, median_of
from labeler.store.label_sets.queries import among
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS
from labeler.t_distribution import t_quantile

Arrays = Mapping[str, np.ndarray]
_KEPT = "comparison 3"  # raise the number when a comparison is computed differently
_READ = named(Use.COMPARED, FIXED)


@dataclass(frozen=True)
class Difference:
    feature_index: int
    label_a: str | None
    label_b: str | None
    score_a: float
    score_b: float
    interval_a: tuple[float, float] | None = None  # 95%
    interval_b: tuple[float, float] | None = None


@dataclass(frozen=True)
class Comparison:
    """The comparison of label sets a and b. Differences are b - a; undefined scores are left out of every number."""

    a: int
    b: int
    n_both: int  # features that have a result in both
    states: dict[str, dict[str, int]]  # n by the state in a, then by the state in b
    n_same_text: int  # labels with the same text, by a hash of 64 bits
    n_scored: int  # features with a score in both
    mean_difference: float | None
    correlation: float | None  # Pearson, of the scores
    n_higher_in_a: int
    n_higher_in_b: int
    n_apart_in_a: int  # higher in a, with intervals that do not overlap
    n_apart_in_b: int
    largest: tuple[Difference, ...]  # by the size of the difference, largest first
    n_only_in_a: int = 0  # features that have a result only in a
    n_only_in_b: int = 0
    n_scored_in_one: int = 0  # features with a score in only one of them
    mean_interval: tuple[float, float] | None = None  # 95%, Student's t over features; None for fewer than 3
    median_a: Median | None = None  # over the features with a score in both
    median_b: Median | None = None
    score: str = "score"  # the column that is compared


_JSON = TypeAdapter(Comparison)


def compare_sets(store: Store, a: int, b: int, limit: int = 20, score: str = "score") -> Comparison:
    """Compare two label sets by the score of this column, such as `detection`; the default is the main score.

    The last comparison of each `a` is kept, and is valid until a result of either changes. Raises NotFoundError,
    MismatchError for label sets of different SAEs, and InputError for a score that neither has.
    """
    store.label_set(a), store.label_set(b)
    with store.database.reading() as connection:
        saes = select(EVIDENCE.c.sae_id).join(LABEL_SETS, LABEL_SETS.c.evidence_id == EVIDENCE.c.id)
        if len(set(connection.execute(saes.where(LABEL_SETS.c.id.in_([a, b]))).scalars())) != 1:
            raise MismatchError(f"label sets {a} and {b} are of different SAEs: their features have nothing in common")
    for label_set in (a, b):
        bring_up_to_date(store.database, label_set)
    with store.database.reading() as connection:
        head = orjson.dumps([b, limit, score, *(version_of(connection, label_set) for label_set in (a, b))])
        kept = whole(connection, a, _KEPT)
        if kept is not None and kept.startswith(head):
            return _JSON.validate_json(kept[len(head) :])
        compared = _compared(connection, a, b, limit, score)
    with store.database.writing() as connection:
        keep_whole(connection, a, _KEPT, head + _JSON.dump_json(compared))
    return compared


def compared_scores(store: Store, a: int, b: int) -> list[str]:
    """Return the columns of the scores by which these label sets can be compared, the main one first."""
    with store.database.reading() as connection:
        return [column_of(name) for name in _scores_there(connection, (a, b))]


def _scores_there(connection: Connection, sets: tuple[int, int]) -> list[str]:
    return in_order({MAIN}.union(*(scores_in(connection, label_set) for label_set in sets)))


def _compared(connection: Connection, a: int, b: int, limit: int, score: str) -> Comparison:
    parts = _parts_of(connection, (a, b), score)
    all_a, all_b = (_read(connection, label_set, parts) for label_set in (a, b))
    in_a, in_b = _in_both(all_a, all_b)
    largest = _largest(connection, (a, b), in_a, in_b, limit)
    n = in_a["state"].size
    only: dict[str, Any] = {"n_only_in_a": all_a["state"].size - n, "n_only_in_b": all_b["state"].size - n}
    states = _states(in_a, in_b)
    return Comparison(a, b, n, states, largest=largest, score=score, **only, **_numbers(in_a, in_b))


def _parts_of(connection: Connection, sets: tuple[int, int], score: str) -> dict[str, str]:
    """Return the columns that hold value, low and high of a score, by the names that these have for the main score."""
    there = _scores_there(connection, sets)
    for name in there:
        columns = {column.part: column.name for column in score_columns(name)}
        if columns["value"] == score:
            return {"score": score, "score_low": columns["low"], "score_high": columns["high"]}
    raise InputError(f"score {score!r}: neither label set has it; they have {', '.join(map(column_of, there))}")


def _read(connection: Connection, label_set: int, parts: Mapping[str, str]) -> Arrays:
    """Read what is compared, the values of the chosen score under the names of the main one."""
    named_as = {column: name for name, column in parts.items()}
    asked = [parts.get(name, name) for name in _READ]
    arrays = read_columns(connection, label_set, asked).arrays
    return {named_as.get(column, column): array for column, array in arrays.items()}


def _in_both(a: Arrays, b: Arrays) -> tuple[Arrays, Arrays]:
    """Return the rows of the features that both sets have, side by side."""
    features, others = a["feature_index"], b["feature_index"]
    if not features.size or not others.size:
        return {name: v[:0] for name, v in a.items()}, {name: v[:0] for name, v in b.items()}
    if np.array_equal(features, others):
        return a, b
    places = np.minimum(np.searchsorted(others, features), others.size - 1)
    both = others[places] == features
    return {name: v[both] for name, v in a.items()}, {name: v[places[both]] for name, v in b.items()}


def _states(a: Arrays, b: Arrays) -> dict[str, dict[str, int]]:
    pairs = np.bincount(a["state"].astype(np.int64) * len(STATES) + b["state"], minlength=len(STATES) ** 2)
    states: dict[str, dict[str, int]] = {}
    for place in np.flatnonzero(pairs):
        in_a, in_b = divmod(int(place), len(STATES))
        states.setdefault(str(STATES[in_a]), {})[str(STATES[in_b])] = int(pairs[place])
    return states


def _numbers(a: Arrays, b: Arrays) -> dict[str, Any]:
    x, y = a["score"], b["score"]
    scored, in_one = ~np.isnan(x) & ~np.isnan(y), np.isnan(x) != np.isnan(y)
    x, y, n = x[scored], y[scored], int(scored.sum())

    def count(which: np.ndarray) -> int:
        return int(np.count_nonzero(which))

    return {
        "n_same_text": count((a["label"] == b["label"]) & (a["label"] != 0)),
        "n_scored": n,
        "n_scored_in_one": count(in_one),
        "mean_difference": float((y - x).mean()) if n else None,
        "correlation": _correlation(x, y) if n > 2 else None,
        "median_a": median_of(x),
        "median_b": median_of(y),
        "mean_interval": _mean_interval(y - x) if n > 2 else None,
        "n_higher_in_a": count(x > y),
        "n_higher_in_b": count(y > x),
        # Where an interval is undefined, NaN is neither above nor below.
        "n_apart_in_a": count(a["score_low"][scored] > b["score_high"][scored]),
        "n_apart_in_b": count(b["score_low"][scored] > a["score_high"][scored]),
    }


def _mean_interval(differences: np.ndarray) -> tuple[float, float]:
    n, mean = differences.size, float(differences.mean())
    margin = t_quantile(0.975, n - 1) * float(differences.std(ddof=1)) / math.sqrt(n)
    return mean - margin, mean + margin


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    dx, dy = x - x.mean(), y - y.mean()
    spread = float((dx * dx).mean() * (dy * dy).mean())
    return float((dx * dy).mean()) / math.sqrt(spread) if spread > 1e-18 else None


def _largest(connection: Connection, sets: tuple[int, int], a: Arrays, b: Arrays, limit: int) -> tuple[Difference, ...]:
    size, features = np.abs(b["score"] - a["score"]), a["feature_index"]
    found = np.flatnonzero(size > 0)
    if found.size > limit:
        least = np.partition(size[found], found.size - limit)[found.size - limit]
        found = found[size[found] >= least]
    chosen = found[np.lexsort((features[found], -size[found]))][:limit].tolist()
    labels = [_labels(connection, label_set, features[chosen].tolist()) for label_set in sets]
    return tuple(
        Difference(
            f,
            labels[0].get(f),
            labels[1].get(f),
            float(a["score"][i]),
            float(b["score"][i]),
            _interval(a, i),
            _interval(b, i),
        )
        for i, f in ((i, int(features[i])) for i in chosen)
    )


def _interval(arrays: Arrays, row: int) -> tuple[float, float] | None:
    low, high = float(arrays["score_low"][row]), float(arrays["score_high"][row])
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def _labels(connection: Connection, label_set: int, features: list[int]) -> dict[int, str | None]:
    here = (RESULTS.c.label_set_id == label_set) & among(connection, RESULTS.c.feature_index, features)
    return dict(map(tuple, connection.execute(select(RESULTS.c.feature_index, RESULTS.c.label).where(here))))
