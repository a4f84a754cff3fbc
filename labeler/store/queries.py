"""Labels as the service reads them: filtered and sorted pages by cursor, look-ups of many features, bulk columns.

Columns are read, never objects. Every page is a range of one index (migration 0004), so that it costs the same
on the first page and on the last, at a thousand labels and at a million.
"""

from __future__ import annotations

import heapq
import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Any

from sqlalchemy import ARRAY, Connection, Integer, UnaryExpression, any_, cast, func, literal, select, tuple_
from sqlalchemy.sql.operators import custom_op

from labeler.errors import InputError
from labeler.records import State
from labeler.store.cursors import make_cursor, read_cursor
from labeler.store.search import holds_text
from labeler.store.store import Store
from labeler.store.tables import EVIDENCE, LABEL_SETS, RESULTS

_MOST_SETS = 200  # that are merged into one sorted page

LISTED = (
    "label_set_id", "feature_index", "state", "label", "explainer", "reason", "score", "score_reason", "score_low", "score_high",
    "score_n", "score_null_z", "score_null_p", "baseline_token_lookup", "score_weighted", "detection", "fuzzing", "density",
    "max_activation", "n_firings", "created_at",
)  # fmt: skip
_COLUMNS = [RESULTS.c[name] for name in LISTED]

LabelRow = dict[str, Any]  # the columns of LISTED, and `sae`


class Sort(StrEnum):
    """The order of a page. By score, only features that have one are listed: an undefined score has no place."""

    INDEX = "index"
    SCORE = "score"
    SCORE_FALLING = "-score"
    DENSITY = "density"
    DENSITY_FALLING = "-density"


@dataclass(frozen=True)
class LabelFilter:
    """Which labels. None: any."""

    sae: int | None = None
    label_set: int | None = None
    state: State | None = None
    explainer: str | None = None
    recipe: str | None = None  # its hash
    text: str | None = None  # in the language of labeler.store.search
    score_min: float | None = None
    score_max: float | None = None
    score_low_min: float | None = None  # the whole interval is at least so high
    score_high_max: float | None = None  # the whole interval is at most so high
    density_min: float | None = None
    density_max: float | None = None


@dataclass(frozen=True)
class Page:
    rows: tuple[LabelRow, ...]
    next_cursor: str | None  # None on the last page


def list_labels(
    store: Store, where: LabelFilter, sort: Sort = Sort.INDEX, limit: int = 50, cursor: str | None = None
) -> Page:
    """One page of labels. Raises InputError for a cursor that is not of this query, and for too many label sets."""
    by_value = sort is not Sort.INDEX
    after = read_cursor((where, sort), cursor, (float, int, int) if by_value else (int, int))
    with store.database.reading() as connection:
        sets = _sets(connection, where)
        if by_value and len(sets) > _MOST_SETS:
            raise InputError(
                f"{len(sets)} label sets match, too many to sort at once: name a `set`, a `sae` or a `recipe`"
            )
        pages = (_page_of_set(connection, s, where, sort, after, limit + 1) for s in sorted(sets))
        rows_in_order = (
            heapq.merge(*pages, key=lambda row: _position(row, sort), reverse=sort.startswith("-"))
            if by_value
            else chain.from_iterable(pages)
        )
        found = list(islice(rows_in_order, limit + 1))
    rows = tuple({**row, "sae": sets[row["label_set_id"]]} for row in found[:limit])
    return Page(rows, make_cursor((where, sort), _position(rows[-1], sort)) if len(found) > limit else None)


def _position(row: LabelRow, sort: Sort) -> tuple[Any, ...]:
    place = (row["label_set_id"], row["feature_index"])
    return place if sort is Sort.INDEX else (row[sort.removeprefix("-")], *place)


def _sets(connection: Connection, where: LabelFilter) -> dict[int, int]:
    """The SAE of each label set that can hold such labels, by the label set's id."""
    query = select(LABEL_SETS.c.id, EVIDENCE.c.sae_id).join(EVIDENCE, EVIDENCE.c.id == LABEL_SETS.c.evidence_id)
    for column, value in (
        (EVIDENCE.c.sae_id, where.sae),
        (LABEL_SETS.c.id, where.label_set),
        (LABEL_SETS.c.explainer, where.explainer),
        (LABEL_SETS.c.recipe_hash, where.recipe),
    ):
        if value is not None:
            query = query.where(column == value)
    return dict(map(tuple, connection.execute(query)))


def _page_of_set(
    connection: Connection, set_id: int, where: LabelFilter, sort: Sort, after: tuple[Any, ...] | None, limit: int
) -> list[LabelRow]:
    query = select(*_COLUMNS).where(RESULTS.c.label_set_id == set_id, *_conditions(connection, where, sort))
    if where.text is not None:
        query = query.where(holds_text(connection, set_id, where.text))
    falling = sort.startswith("-")
    keys = (
        [RESULTS.c.feature_index]
        if sort is Sort.INDEX
        else [RESULTS.c[sort.removeprefix("-")], RESULTS.c.feature_index]
    )
    if sort in (Sort.SCORE, Sort.SCORE_FALLING):
        query = query.where(RESULTS.c.score.is_not(None))
    if after is not None:
        query = query.where(_beyond(set_id, keys, after, falling))
    ordered = query.order_by(*(key.desc() if falling else key for key in keys)).limit(limit)
    return [dict(zip(LISTED, row, strict=True)) for row in connection.execute(ordered)]


def _beyond(set_id: int, keys: Sequence[Any], after: tuple[Any, ...], falling: bool) -> Any:
    """What comes after the position (value, label set, feature) in this label set."""
    *value, of_set, feature = after
    if set_id == of_set:
        here, there = tuple_(*keys), tuple_(*(literal(v) for v in (*value, feature)))
        return here < there if falling else here > there
    if not value:  # by index: label sets come one after the other
        return literal(set_id > of_set)
    if falling:
        return keys[0] <= value[0] if set_id < of_set else keys[0] < value[0]
    return keys[0] >= value[0] if set_id > of_set else keys[0] > value[0]


_COMPARE = {"==": operator.eq, ">=": operator.ge, "<=": operator.le}


def _conditions(connection: Connection, where: LabelFilter, sort: Sort) -> list[Any]:
    asked = (
        ("state", "==", where.state), ("score", ">=", where.score_min), ("score", "<=", where.score_max),
        ("score_low", ">=", where.score_low_min), ("score_high", "<=", where.score_high_max),
        ("density", ">=", where.density_min), ("density", "<=", where.density_max),
    )  # fmt: skip
    ordering = {"state"} if sort is Sort.INDEX else {sort.removeprefix("-")}
    conditions = []
    for name, sign, value in asked:
        if value is not None:
            # SQLite knows nothing of the distribution: it would rather filter by an index and sort what it finds. The
            # plus keeps it on the index that is in order.
            forced = connection.dialect.name == "sqlite" and name not in ordering
            column = UnaryExpression(RESULTS.c[name], operator=custom_op("+")) if forced else RESULTS.c[name]
            conditions.append(_COMPARE[sign](column, value))
    return conditions


class Choose(StrEnum):
    """Which label stands for a feature that has several."""

    NEWEST = "newest"  # of the newest label set that has one
    BEST = "best"  # with the highest score


def lookup_labels(
    store: Store,
    pairs: Sequence[tuple[int, int]],
    *,
    label_sets: Sequence[int] | None = None,
    choose: Choose = Choose.NEWEST,
) -> list[LabelRow | None]:
    """The label of each (SAE id, feature index), in their order; None where no label set has one."""
    wanted: dict[int, set[int]] = {}
    for sae, feature in pairs:
        wanted.setdefault(sae, set()).add(feature)
    found: dict[tuple[int, int], LabelRow] = {}
    with store.database.reading() as connection:
        for sae, features in wanted.items():
            sets = [s for s in _sets(connection, LabelFilter(sae=sae)) if label_sets is None or s in label_sets]
            for row in _labels_of(connection, sorted(sets, reverse=True), features, choose):
                found[sae, row["feature_index"]] = {**row, "sae": sae}
    return [found.get(pair) for pair in pairs]


def _labels_of(connection: Connection, sets: Sequence[int], features: set[int], choose: Choose) -> Iterable[LabelRow]:
    best: dict[int, LabelRow] = {}
    missing = features
    for set_id in sets:
        for row in rows_at(connection, set_id, missing):
            if row["label"] is not None and _is_better(row, best.get(row["feature_index"])):
                best[row["feature_index"]] = row
        if choose is Choose.NEWEST:
            missing = missing - best.keys()
        if not missing:
            break
    return best.values()


def _is_better(row: LabelRow, other: LabelRow | None) -> bool:
    return other is None or (row["score"] is not None and (other["score"] is None or row["score"] > other["score"]))


def rows_at(connection: Connection, set_id: int, features: Iterable[int]) -> list[LabelRow]:
    """The results of these features of one label set, in no order."""
    query = select(*_COLUMNS).where(
        RESULTS.c.label_set_id == set_id, among(connection, RESULTS.c.feature_index, list(features))
    )
    return [dict(zip(LISTED, row, strict=True)) for row in connection.execute(query)]


def among(connection: Connection, column: Any, values: list[int]) -> Any:
    """`column IN values` with one bound value, whatever their number: statements stay short, and are prepared once."""
    if connection.dialect.name == "postgresql":
        return column == any_(cast(values, ARRAY(Integer)))
    return column.in_(select(func.json_each(json.dumps(values)).table_valued("value").c.value))


def one_label(store: Store, label_set_id: int, feature_index: int) -> LabelRow | None:
    return labels_at(store, [(label_set_id, feature_index)])[0]


def labels_at(store: Store, places: Sequence[tuple[int, int]]) -> list[LabelRow | None]:
    """The result at each (label set, feature index), in their order; None where there is none."""
    wanted: dict[int, list[int]] = {}
    for label_set, feature in places:
        wanted.setdefault(label_set, []).append(feature)
    found: dict[tuple[int, int], LabelRow] = {}
    with store.database.reading() as connection:
        for label_set, features in wanted.items():
            for set_id, sae in _sets(connection, LabelFilter(label_set=label_set)).items():
                for row in rows_at(connection, set_id, features):
                    found[set_id, row["feature_index"]] = {**row, "sae": sae}
    return [found.get(place) for place in places]


def labels_of_feature(store: Store, sae: int, feature_index: int) -> list[LabelRow]:
    """The feature in every label set of its SAE, the newest first, each with all of its `scores`."""
    with store.database.reading() as connection:
        sets = _sets(connection, LabelFilter(sae=sae))
        query = select(*_COLUMNS, RESULTS.c.scores).where(
            among(connection, RESULTS.c.label_set_id, list(sets)), RESULTS.c.feature_index == feature_index
        )
        rows = connection.execute(query.order_by(RESULTS.c.label_set_id.desc())).mappings()
        return [{**row, "sae": sae, "scores": {score["name"]: score for score in row["scores"]}} for row in rows]
