"""Reading labels for the service: filtered and sorted pages by cursor, look-ups of many features, bulk columns.

Queries read columns, never objects. Every page is a range of one index (migration 0004), so that it costs the same on
the first page and on the last, at a thousand labels and at a million.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
from sqlalchemy import ARRAY, Connection, Text, UnaryExpression, any_, cast, func, literal, select, tuple_
from sqlalchemy.sql.operators import custom_op

from labeler.errors import InputError
from labeler.records import State
from labeler.schema import LISTED, End
from labeler.store.base.columns import STATES, bring_up_to_date, read_columns
from labeler.store.base.cursors import make_cursor, read_cursor
from labeler.store.base.store import Store
from labeler.store.label_sets.review_state import review_condition
from labeler.store.label_sets.search import few_or_matching
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS
from labeler.terms import Verdict

_MOST_SETS = 200  # label sets that are merged into one sorted page

_COLUMNS = [RESULTS.c[name] for name in LISTED]
_STORED = cast(RESULTS.c.scores, Text)  # as text, which orjson reads faster than the driver would

LabelRow = dict[str, Any]  # the columns of LISTED, and `sae`; where they are wanted, `scores` by name


class Sort(StrEnum):
    """The common orders of a page. A page by score or density lists only features that have a score or density."""

    INDEX = "index"
    SCORE = "score"
    SCORE_FALLING = "-score"
    DENSITY = "density"
    DENSITY_FALLING = "-density"


@dataclass(frozen=True)
class Bound:
    """A condition on a number: at least or at most a value. A column that ends in `_width` is a score's high - low."""

    column: str
    end: End
    value: float


class Reviewed(StrEnum):
    """The state of a label's reviews, by the newest review of its present text."""

    YES = "yes"
    NO = "no"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CORRECTED = "corrected"  # a person corrected it

    @classmethod
    def _missing_(cls, value: object) -> Reviewed | None:
        return cls.CORRECTED if value == "bettered" else None  # as earlier versions called it


@dataclass(frozen=True)
class LabelFilter:
    """The conditions on a page of labels. None: any."""

    sae: int | None = None
    label_set: int | None = None
    state: State | None = None
    explainer: str | None = None
    recipe: str | None = None  # its hash
    text: str | None = None  # in the language of labeler.store.label_sets.search
    score_min: float | None = None
    score_max: float | None = None
    score_low_min: float | None = None  # the whole interval is at or above
    score_high_max: float | None = None  # the whole interval is at or below
    density_min: float | None = None
    density_max: float | None = None
    width_max: float | None = None  # the widest interval of the score
    reviewed: Reviewed | None = None
    bounds: tuple[Bound, ...] = ()  # on other columns that are declared as filtered


@dataclass(frozen=True)
class Page:
    rows: tuple[LabelRow, ...]
    next_cursor: str | None  # None on the last page


def list_labels(
    store: Store,
    where: LabelFilter,
    sort: str = Sort.INDEX,
    limit: int = 50,
    cursor: str | None = None,
    *,
    with_scores: bool = False,
) -> Page:
    """Return one page of labels, in the order of `sort`: `index`, or a column that is sorted, with `-` for falling.

    Raises InputError for another query's cursor, and for too many label sets.
    """
    by_value = sort != Sort.INDEX
    after = read_cursor((where, str(sort)), cursor, (float, int, int) if by_value else (int, int))
    by_columns = bool(where.bounds) or sort not in tuple(Sort)
    if by_columns:
        with store.database.reading() as connection:
            sets = sets_of(connection, where)
        for label_set in sets:
            bring_up_to_date(store.database, label_set)
    with store.database.reading() as connection:
        sets = sets_of(connection, where)
        if by_value and len(sets) > _MOST_SETS:
            raise InputError(
                f"{len(sets)} label sets match, too many to sort at once: name a `set`, a `sae` or a `recipe`"
            )
        page_of = _page_by_columns if by_columns else _page_of_set
        pages = (page_of(connection, s, where, sort, after, limit + 1, with_scores) for s in sorted(sets))
        found_in_order = (
            heapq.merge(*pages, key=itemgetter(0), reverse=sort.startswith("-"))
            if by_value
            else chain.from_iterable(pages)
        )
        found = list(islice(found_in_order, limit + 1))
    rows = tuple({**row, "sae": sets[row["label_set_id"]]} for _, row in found[:limit])
    return Page(rows, make_cursor((where, str(sort)), found[limit - 1][0]) if len(found) > limit else None)


def sets_of(connection: Connection, where: LabelFilter) -> dict[int, int]:
    """Return the SAE of each label set that can hold such labels, by the label set's id."""
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


# Rows, each with its place in the order: (value, label set, feature), or without a value by index.
_Placed = list[tuple[tuple[Any, ...], LabelRow]]


def _page_of_set(
    connection: Connection,
    set_id: int,
    where: LabelFilter,
    sort: str,
    after: tuple[Any, ...] | None,
    limit: int,
    with_scores: bool,
) -> _Placed:
    listed, conditions = _listed(connection, set_id, where)
    falling, by_index = sort.startswith("-"), sort == Sort.INDEX
    names = ["feature_index"] if by_index else [sort.removeprefix("-"), "feature_index"]
    # The columns by which the database may find rows: those of a list by its features, all others by their order.
    found_by = {"feature_index"} if listed else {names[0], "state"} if by_index else {*names}
    keys = [_column(connection, name, set() if listed else found_by, is_number=True) for name in names]
    conditions += [RESULTS.c.label_set_id == set_id, *_conditions(connection, where, found_by)]
    if not by_index:
        conditions.append(keys[0].is_not(None))
    if after is not None:
        conditions.append(_beyond(set_id, keys, after, falling))
    order = [key.desc() if falling else key for key in keys]
    if not listed and where.text is None:
        found = _rows(connection, with_scores, conditions, order, limit)
    else:
        # First the features, from an index only, and then their rows: otherwise whole rows would be read to be sorted.
        query = select(RESULTS.c.feature_index).where(*conditions).order_by(*order).limit(limit)
        features = list(connection.execute(query).scalars())
        rows = {row["feature_index"]: row for row in rows_at(connection, set_id, features, with_scores=with_scores)}
        found = [rows[feature] for feature in features if feature in rows]
    return [((*(row[name] for name in names[:-1]), set_id, row["feature_index"]), row) for row in found]


def _page_by_columns(
    connection: Connection,
    set_id: int,
    where: LabelFilter,
    sort: str,
    after: tuple[Any, ...] | None,
    limit: int,
    with_scores: bool,
) -> _Placed:
    """Return a page as `_page_of_set` does, chosen by the columns of the label set (labeler/store/base/columns.py).

    Scores are too many for an index each. Their columns are read in a few milliseconds for a million features.
    """
    features, values = _chosen(connection, set_id, where, sort)
    falling, by_index = sort.startswith("-"), sort == Sort.INDEX
    keep = _behind(set_id, features, values, after, falling)
    features, values = features[keep], values[keep]
    if not by_index:
        features, values = _first(features, values, limit, falling)
    features, values = features[:limit], values[:limit]
    rows = {
        row["feature_index"]: row for row in rows_at(connection, set_id, features.tolist(), with_scores=with_scores)
    }
    return [
        ((set_id, feature) if by_index else (value, set_id, feature), rows[feature])
        for feature, value in zip(features.tolist(), values.tolist(), strict=True)
        if feature in rows
    ]


def _chosen(connection: Connection, set_id: int, where: LabelFilter, sort: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the features that pass the filter, in rising order, and the value of each by which they are sorted."""
    ordered = "feature_index" if sort == Sort.INDEX else sort.removeprefix("-")
    bounds = (*where.bounds, *_bounds(where))
    needed = {"feature_index", ordered, *chain.from_iterable(map(_columns_behind, bounds))}
    arrays = read_columns(connection, set_id, [*needed, *(("state",) if where.state else ())]).arrays
    keep = ~np.isnan(arrays[ordered])
    for bound in bounds:
        names = _columns_behind(bound)
        value = arrays[names[0]] - arrays[names[1]] if len(names) == 2 else arrays[names[0]]
        keep &= value >= bound.value if bound.end == "min" else value <= bound.value  # NaN is neither
    if where.state is not None:
        keep &= arrays["state"] == STATES.index(where.state)
    _, conditions = _listed(connection, set_id, where)
    if conditions:
        query = select(RESULTS.c.feature_index).where(RESULTS.c.label_set_id == set_id, *conditions)
        keep &= np.isin(arrays["feature_index"], list(connection.execute(query).scalars()))
    return arrays["feature_index"][keep], arrays[ordered][keep]


def _bounds(where: LabelFilter) -> list[Bound]:
    """Return the filter's own fields as bounds."""
    asked: tuple[tuple[str, End, float | None], ...] = (
        ("score", "min", where.score_min),
        ("score", "max", where.score_max),
        ("score_low", "min", where.score_low_min),
        ("score_high", "max", where.score_high_max),
        ("density", "min", where.density_min),
        ("density", "max", where.density_max),
        ("score_width", "max", where.width_max),
    )
    return [Bound(column, end, value) for column, end, value in asked if value is not None]


def _columns_behind(bound: Bound) -> tuple[str, ...]:
    name = bound.column.removesuffix("_width")
    return (f"{name}_high", f"{name}_low") if name != bound.column else (name,)


def _behind(
    set_id: int, features: np.ndarray, values: np.ndarray, after: tuple[Any, ...] | None, falling: bool
) -> np.ndarray:
    """Choose the features after the position (value, label set, feature) in this label set."""
    if after is None:
        return np.ones(features.size, dtype=bool)
    *value, of_set, feature = after
    if not value:  # by index: label sets come one after the other
        return features > feature if set_id == of_set else np.full(features.size, set_id > of_set)
    beyond, same = (values < value[0], set_id < of_set) if falling else (values > value[0], set_id > of_set)
    ties = (features < feature if falling else features > feature) if set_id == of_set else same
    return np.asarray(beyond | ((values == value[0]) & ties))


def _first(features: np.ndarray, values: np.ndarray, limit: int, falling: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the first features in the order of their values, and of their indices where values are equal."""
    if values.size > limit:  # sort only the page's values, with all that are equal to its last
        last = np.partition(values, -limit if falling else limit - 1)[-limit if falling else limit - 1]
        near = values >= last if falling else values <= last
        features, values = features[near], values[near]
    order = np.lexsort((features, values))
    order = order[::-1] if falling else order
    return features[order], values[order]


def _listed(connection: Connection, set_id: int, where: LabelFilter) -> tuple[bool, list[Any]]:
    """Return the conditions that name features.

    The flag says that they are a short list to look up, and not a condition on many rows.
    """
    lists: list[list[int]] = []
    conditions: list[Any] = []
    if where.text is not None:
        found = few_or_matching(connection, set_id, where.text)
        (lists if isinstance(found, list) else conditions).append(found)
    if where.reviewed is not None:
        few, stands = review_condition(connection, set_id, _VERDICTS[where.reviewed])
        conditions.append(stands)
        if few is not None:
            lists.append(few)
    if lists:
        common = set(lists[0]).intersection(*lists[1:])
        conditions.append(among(connection, RESULTS.c.feature_index, sorted(common)))
    return bool(lists), conditions


def _beyond(set_id: int, keys: Sequence[Any], after: tuple[Any, ...], falling: bool) -> Any:
    """Return the condition for rows after the position (value, label set, feature) in this label set."""
    *value, of_set, feature = after
    if set_id == of_set:
        here, there = tuple_(*keys), tuple_(*(literal(v) for v in (*value, feature)))
        return here < there if falling else here > there
    if not value:  # by index: label sets come one after the other
        return literal(set_id > of_set)
    if falling:
        return keys[0] <= value[0] if set_id < of_set else keys[0] < value[0]
    return keys[0] >= value[0] if set_id > of_set else keys[0] > value[0]


_VERDICTS = {
    Reviewed.YES: tuple(Verdict),
    Reviewed.NO: (),
    Reviewed.ACCEPTED: (Verdict.ACCEPT,),
    Reviewed.REJECTED: (Verdict.REJECT,),
    Reviewed.CORRECTED: (Verdict.CORRECTED,),
}


def _conditions(connection: Connection, where: LabelFilter, found_by: set[str]) -> list[Any]:
    conditions = [] if where.state is None else [_column(connection, "state", found_by) == where.state]
    for bound in _bounds(where):
        if bound.column == "score_width":
            value = RESULTS.c.score_high - RESULTS.c.score_low
        else:
            value = _column(connection, bound.column, found_by)
        conditions.append(value >= bound.value if bound.end == "min" else value <= bound.value)
    return conditions


def _column(connection: Connection, name: str, found_by: set[str], *, is_number: bool = False) -> Any:
    """Write the column so that an index on it is used only where `found_by` names it.

    SQLite has no statistics, and would use any index that filters; PostgreSQL would go through all rows in order rather
    than sort a list.
    """
    column = RESULTS.c[name]
    if name in found_by:
        return column
    if connection.dialect.name == "sqlite":
        return UnaryExpression(column, operator=custom_op("+"))
    return column + 0 if is_number else column


def rows_at(
    connection: Connection, set_id: int, features: Iterable[int], *, with_scores: bool = False
) -> list[LabelRow]:
    """Return the results of these features of one label set, in no order."""
    here = [RESULTS.c.label_set_id == set_id, among(connection, RESULTS.c.feature_index, list(features))]
    return _rows(connection, with_scores, here)


def _rows(
    connection: Connection,
    with_scores: bool,
    conditions: Sequence[Any],
    order: Sequence[Any] = (),
    limit: int | None = None,
) -> list[LabelRow]:
    query = select(*_COLUMNS, *((_STORED,) if with_scores else ())).where(*conditions).order_by(*order).limit(limit)
    if not with_scores:
        return [dict(zip(LISTED, row, strict=True)) for row in connection.execute(query)]
    names = (*LISTED, "scores")
    rows = [dict(zip(names, row, strict=True)) for row in connection.execute(query)]
    return [{**row, "scores": {score["name"]: score for score in orjson.loads(row["scores"])}} for row in rows]


def among(connection: Connection, column: Any, values: list[int]) -> Any:
    """Write `column IN values` with one bound value, so that statements stay short and are prepared once."""
    if connection.dialect.name == "postgresql":
        return column == any_(cast(values, ARRAY(column.type)))
    return column.in_(select(func.json_each(json.dumps(values)).table_valued("value").c.value))


def one_label(store: Store, label_set_id: int, feature_index: int) -> LabelRow | None:
    return labels_at(store, [(label_set_id, feature_index)], with_scores=True)[0]


def labels_at(store: Store, places: Sequence[tuple[int, int]], *, with_scores: bool = False) -> list[LabelRow | None]:
    """Return the result at each (label set, feature index), in their order; None where there is none."""
    wanted: dict[int, list[int]] = {}
    for label_set, feature in places:
        wanted.setdefault(label_set, []).append(feature)
    found: dict[tuple[int, int], LabelRow] = {}
    with store.database.reading() as connection:
        for label_set, features in wanted.items():
            for set_id, sae in sets_of(connection, LabelFilter(label_set=label_set)).items():
                for row in rows_at(connection, set_id, features, with_scores=with_scores):
                    found[set_id, row["feature_index"]] = {**row, "sae": sae}
    return [found.get(place) for place in places]


def labels_of_feature(store: Store, sae: int, feature_index: int) -> list[LabelRow]:
    """Return the feature's result in every label set of its SAE, the newest first, with all `scores`."""
    with store.database.reading() as connection:
        sets = sets_of(connection, LabelFilter(sae=sae))
        here = [among(connection, RESULTS.c.label_set_id, list(sets)), RESULTS.c.feature_index == feature_index]
        rows = _rows(connection, True, here, [RESULTS.c.label_set_id.desc()])
        return [{**row, "sae": sae} for row in rows]
