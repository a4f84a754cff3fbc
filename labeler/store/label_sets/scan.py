"""All results of a label set in the order of features, a page at a time: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from sqlalchemy import String, case, cast, func, select, type_coerce

from labeler.schema import REVIEWED, Column
from labeler.store.base.columns import read_scores
from labeler.store.base.database import Snapshot, fetch_plain
from labeler.store.base.store import Store
from labeler.store.tables.label_sets import RESULTS
from labeler.store.tables.service import STANDINGS

_ROWS_AT_ONCE = 10_000
_LABELS_AT_ONCE = 2_000

Batch = dict[str, Any]  # the values of some rows by column: sequences, or arrays with NaN where there is no number
Reading = Callable[[], AbstractContextManager[Snapshot]]


def scan_labels(store: Store, label_set_id: int, only: int | None = None) -> Iterator[Any]:
    """Yield feature_index, label, explainer, scores and created_at of the labeled features; with `only`, of one."""
    columns = [RESULTS.c[name] for name in ("feature_index", "label", "explainer", "scores", "created_at")]
    query = select(*columns).where(RESULTS.c.label_set_id == label_set_id, RESULTS.c.label.is_not(None))
    if only is not None:
        query = query.where(RESULTS.c.feature_index == only)
    after = -1
    while True:
        page = query.where(RESULTS.c.feature_index > after).order_by(RESULTS.c.feature_index).limit(_LABELS_AT_ONCE)
        with store.database.reading() as connection:
            found = connection.execute(page).all()
        if not found:
            return
        yield from found
        after = found[-1].feature_index


def scan_detection(store: Store, label_set_id: int) -> Iterator[Any]:
    """Yield feature_index, label and scores of the features that have a detection score."""
    query = select(RESULTS.c.feature_index, RESULTS.c.label, RESULTS.c.scores).where(
        RESULTS.c.label_set_id == label_set_id, RESULTS.c.detection.is_not(None)
    )
    with store.database.reading() as connection:
        yield from connection.execution_options(yield_per=1000).execute(query.order_by(RESULTS.c.feature_index))


def scan_columns(
    store: Store, reading: Reading, label_set_id: int, columns: tuple[Column, ...], after: int, limit: int | None
) -> Iterator[Batch]:
    """Yield the values of `columns` behind feature `after`, at most `limit` rows; each batch is a query of its own."""
    made = {"created_at": _time(store), **_said()}
    own = [column for column in columns if not column.of_the_set]
    on_rows = [column.name for column in own if column.name in made or column.name in RESULTS.c]
    others = [column for column in own if column.name not in on_rows]
    query = select(*(made[name] if name in made else RESULTS.c[name] for name in on_rows))
    query = query.where(RESULTS.c.label_set_id == label_set_id).order_by(RESULTS.c.feature_index)
    if REVIEWED[0] in columns:
        query = query.select_from(RESULTS.join(STANDINGS, _OF_ROW, isouter=True))
    left = limit
    while left is None or left > 0:
        page = query.where(RESULTS.c.feature_index > after).limit(min(_ROWS_AT_ONCE, left or _ROWS_AT_ONCE))
        with reading() as connection:
            rows = fetch_plain(connection, page)
            if not rows:
                return
            batch: Batch = dict(zip(on_rows, zip(*rows, strict=True), strict=True))
            if others:
                batch |= read_scores(connection, label_set_id, np.array(batch["feature_index"]), others)
        yield batch
        after = batch["feature_index"][-1]
        left = None if left is None else left - len(rows)


_OF_ROW = (STANDINGS.c.label_set_id == RESULTS.c.label_set_id) & (STANDINGS.c.feature_index == RESULTS.c.feature_index)


_REVIEWS = tuple(column.name for column in REVIEWED)


def _said() -> dict[str, Any]:
    """Return the reviews of a row. A verdict counts only if its text is the present label."""
    of_present = STANDINGS.c.reviewed_label.is_not_distinct_from(RESULTS.c.label)
    verdict = case((of_present, STANDINGS.c.verdict))
    return dict(zip(_REVIEWS, (verdict, STANDINGS.c.text, STANDINGS.c.reviewer), strict=True))


def _time(store: Store) -> Any:
    """Format a time as ISO 8601 in UTC in the database: a million datetimes cost more than all other columns."""
    if store.database.dialect == "sqlite":
        text = type_coerce(RESULTS.c.created_at, String)
        return func.substr(text, 1, 10).concat("T").concat(func.substr(text, 12, 8)).concat("+00:00")
    return func.to_char(func.timezone("UTC", RESULTS.c.created_at), cast('YYYY-MM-DD"T"HH24:MI:SS"+00:00"', String))
