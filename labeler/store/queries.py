"""Reading labels for the service: filtered and sorted pages by cursor, look-ups of many features, bulk columns.

Queries read columns, never objects. Every page is a range of one index (migration 0004), so that it costs the same on
the first page and on the last, at a thousand labels and at a million.
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

from sqlalchemy import ARRAY, Connection, UnaryExpression, any_, cast, func, literal, select, tuple_
from sqlalchemy.sql.operators import custom_op

from labeler.errors import InputError
from labeler.records import State
from labeler.store.cursors import make_cursor, read_cursor
from labeler.store.reviews import Verdict
from labeler.store.search import few_or_matching
from labeler.store.standing import standing_as
from labeler.store.store import Store
from labeler.store.tables import EVIDENCE, LABEL_SETS, RESULTS

_MOST_SETS = 200  # label sets that are merged into one sorted page

LISTED = (
    "label_set_id", "feature_index", "state", "label", "explainer", "reason", "score", "score_reason", "score_low", "score_high",
    "score_n", "score_null_z", "score_null_p", "baseline_token_lookup", "score_weighted", "score_weighted_low", "score_weighted_high",
    "detection", "fuzzing", "density", "max_activation", "n_firings", "created_at",
)  # fmt: skip
_COLUMNS = [RESULTS.c[name] for name in LISTED]

LabelRow = dict[str, Any]  # the columns of LISTED, and `sae`


class Sort(StrEnum):
    """The order of a page. A page by score or density lists only features that have a score or density."""

    INDEX = "index"
    SCORE = "score"
    SCORE_FALLING = "-score"
    DENSITY = "density"
    DENSITY_FALLING = "-density"


class Reviewed(StrEnum):
    """The state of a label's reviews, by the newest review of its present text."""

    YES = "yes"
    NO = "no"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    BETTERED = "bettered"  # a person corrected it


@dataclass(frozen=True)
class LabelFilter:
    """The conditions on a page of labels. None: any."""

    sae: int | None = None
    label_set: int | None = None
    state: State | None = None
    explainer: str | None = None
    recipe: str | None = None  # its hash
    text: str | None = None  # in the language of labeler.store.search
    score_min: float | None = None
    score_max: float | None = None
    score_low_min: float | None = None  # the whole interval is at or above
    score_high_max: float | None = None  # the whole interval is at or below
    density_min: float | None = None
    density_max: float | None = None
    width_max: float | None = None  # the widest interval of the score
    reviewed: Reviewed | None = None


@dataclass(frozen=True)
class Page:
    rows: tuple[LabelRow, ...]
    next_cursor: str | None  # None on the last page


def list_labels(
    store: Store, where: LabelFilter, sort: Sort = Sort.INDEX, limit: int = 50, cursor: str | None = None
) -> Page:
    """Return one page of labels. Raises InputError for another query's cursor, and for too many label sets."""
    by_value = sort is not Sort.INDEX
    after = read_cursor((where, sort), cursor, (float, int, int) if by_value else (int, int))
    with store.database.reading() as connection:
        sets = sets_of(connection, where)
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


def _page_of_set(
    connection: Connection, set_id: int, where: LabelFilter, sort: Sort, after: tuple[Any, ...] | None, limit: int
) -> list[LabelRow]:
    listed, conditions = _listed(connection, set_id, where)
    falling = sort.startswith("-")
    names = ["feature_index"] if sort is Sort.INDEX else [sort.removeprefix("-"), "feature_index"]
    # The columns by which the database may find rows: those of a list by its features, all others by their order.
    found_by = {"feature_index"} if listed else {names[0], "state"} if sort is Sort.INDEX else {*names}
    keys = [_column(connection, name, set() if listed else found_by, is_number=True) for name in names]
    conditions += [RESULTS.c.label_set_id == set_id, *_conditions(connection, where, found_by)]
    if sort is not Sort.INDEX:
        conditions.append(keys[0].is_not(None))
    if after is not None:
        conditions.append(_beyond(set_id, keys, after, falling))
    order = [key.desc() if falling else key for key in keys]
    if not listed and where.text is None:
        query = select(*_COLUMNS).where(*conditions).order_by(*order).limit(limit)
        return [dict(zip(LISTED, row, strict=True)) for row in connection.execute(query)]
    # First the features, from an index only, and then their rows: otherwise whole rows would be read to be sorted.
    query = select(RESULTS.c.feature_index).where(*conditions).order_by(*order).limit(limit)
    features = list(connection.execute(query).scalars())
    rows = {row["feature_index"]: row for row in rows_at(connection, set_id, features)}
    return [rows[feature] for feature in features if feature in rows]


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
        few, stands = standing_as(connection, set_id, _VERDICTS[where.reviewed])
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
    Reviewed.YES: tuple(Verdict), Reviewed.NO: (), Reviewed.ACCEPTED: (Verdict.ACCEPT,),
    Reviewed.REJECTED: (Verdict.REJECT,), Reviewed.BETTERED: (Verdict.BETTER,),
}  # fmt: skip
_COMPARE = {"==": operator.eq, ">=": operator.ge, "<=": operator.le}


def _conditions(connection: Connection, where: LabelFilter, found_by: set[str]) -> list[Any]:
    asked = (
        ("state", "==", where.state), ("score", ">=", where.score_min), ("score", "<=", where.score_max),
        ("score_low", ">=", where.score_low_min), ("score_high", "<=", where.score_high_max),
        ("density", ">=", where.density_min), ("density", "<=", where.density_max),
    )  # fmt: skip
    conditions = [
        _COMPARE[sign](_column(connection, name, found_by), value) for name, sign, value in asked if value is not None
    ]
    if where.width_max is not None:
        conditions.append(RESULTS.c.score_high - RESULTS.c.score_low <= where.width_max)
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


def rows_at(connection: Connection, set_id: int, features: Iterable[int]) -> list[LabelRow]:
    """Return the results of these features of one label set, in no order."""
    query = select(*_COLUMNS).where(
        RESULTS.c.label_set_id == set_id, among(connection, RESULTS.c.feature_index, list(features))
    )
    return [dict(zip(LISTED, row, strict=True)) for row in connection.execute(query)]


def among(connection: Connection, column: Any, values: list[int]) -> Any:
    """Write `column IN values` with one bound value, so that statements stay short and are prepared once."""
    if connection.dialect.name == "postgresql":
        return column == any_(cast(values, ARRAY(column.type)))
    return column.in_(select(func.json_each(json.dumps(values)).table_valued("value").c.value))


def one_label(store: Store, label_set_id: int, feature_index: int) -> LabelRow | None:
    return labels_at(store, [(label_set_id, feature_index)])[0]


def labels_at(store: Store, places: Sequence[tuple[int, int]]) -> list[LabelRow | None]:
    """Return the result at each (label set, feature index), in their order; None where there is none."""
    wanted: dict[int, list[int]] = {}
    for label_set, feature in places:
        wanted.setdefault(label_set, []).append(feature)
    found: dict[tuple[int, int], LabelRow] = {}
    with store.database.reading() as connection:
        for label_set, features in wanted.items():
            for set_id, sae in sets_of(connection, LabelFilter(label_set=label_set)).items():
                for row in rows_at(connection, set_id, features):
                    found[set_id, row["feature_index"]] = {**row, "sae": sae}
    return [found.get(place) for place in places]


def labels_of_feature(store: Store, sae: int, feature_index: int) -> list[LabelRow]:
    """Return the feature's result in every label set of its SAE, the newest first, with all `scores`."""
    with store.database.reading() as connection:
        sets = sets_of(connection, LabelFilter(sae=sae))
        query = select(*_COLUMNS, RESULTS.c.scores).where(
            among(connection, RESULTS.c.label_set_id, list(sets)), RESULTS.c.feature_index == feature_index
        )
        rows = connection.execute(query.order_by(RESULTS.c.label_set_id.desc())).mappings()
        return [{**row, "sae": sae, "scores": {score["name"]: score for score in row["scores"]}} for row in rows]
