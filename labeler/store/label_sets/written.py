"""Labels that people wrote: rows like the other labels, beside them, without a score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from labeler.records import State
from labeler.schema import DECLARED, Use
from labeler.store.base.store import Store
from labeler.store.label_sets.queries import LabelFilter, LabelRow, among, labels_at, rows_at, sets_of
from labeler.store.label_sets.search import Hit
from labeler.store.tables.service import STANDINGS

_SCORED = tuple(column.name for column in DECLARED.values() if column.score and Use.LISTED in column.use)
_UNSCORED = "a label that a person wrote is not scored"


def person_rows(connection: Connection, set_id: int, features: Iterable[int]) -> list[LabelRow]:
    """Return the newest label that a person wrote for each of these features, where one exists, in no order."""
    columns = [STANDINGS.c[name] for name in ("feature_index", "text", "reviewer", "written_at")]
    written = select(*columns).where(
        STANDINGS.c.label_set_id == set_id,
        among(connection, STANDINGS.c.feature_index, list(features)),
        STANDINGS.c.text.is_not(None),
    )
    found = {row.feature_index: row for row in connection.execute(written)}
    return [_row(row, found[row["feature_index"]]) for row in rows_at(connection, set_id, found)]


def _row(row: LabelRow, written: Any) -> LabelRow:
    return {
        **row,
        **dict.fromkeys(_SCORED),
        "state": State.LABELED,
        "label": written.text,
        "reason": None,
        "explainer": f"person:{written.reviewer}",
        "score_reason": _UNSCORED,
        "created_at": written.written_at,
        "scores": {},
    }


def people_of_feature(store: Store, sae: int, feature_index: int) -> list[LabelRow]:
    """Return people's labels of a feature in the SAE's label sets, the newest first."""
    with store.database.reading() as connection:
        sets = sorted(sets_of(connection, LabelFilter(sae=sae)), reverse=True)
        rows = [row for label_set in sets for row in person_rows(connection, label_set, [feature_index])]
    return [{**row, "sae": sae} for row in rows]


def rows_of_hits(store: Store, hits: Sequence[Hit]) -> list[LabelRow | None]:
    """Return the label that each hit of a search found; None where it has been deleted since."""
    found = labels_at(store, [(hit.label_set_id, hit.feature_index) for hit in hits])
    by_people: dict[int, list[int]] = {}
    for hit in hits:
        if hit.by_person:
            by_people.setdefault(hit.label_set_id, []).append(hit.feature_index)
    with store.database.reading() as connection:
        written = {
            (label_set, row["feature_index"]): row
            for label_set, features in by_people.items()
            for row in person_rows(connection, label_set, features)
        }
    return [
        row and {**written.get((h.label_set_id, h.feature_index), row), "sae": row["sae"]} if h.by_person else row
        for h, row in zip(hits, found, strict=True)
    ]


def people_say(store: Store, label_set_id: int) -> dict[str, int]:
    """Count the labels of a label set that were accepted, rejected or corrected by their newest review.

    The labels that people wrote are counted too.
    """
    of_set = STANDINGS.c.label_set_id == label_set_id
    query = select(STANDINGS.c.verdict, func.count(), func.count(STANDINGS.c.text)).where(of_set)
    with store.database.reading() as connection:
        rows = connection.execute(query.group_by(STANDINGS.c.verdict)).all()
    counts = {verdict: n for verdict, n, _ in rows}
    return {
        "accepted": counts.get("accept", 0),
        "rejected": counts.get("reject", 0),
        "corrected": counts.get("corrected", 0),
        "labels": sum(n for _, _, n in rows),
    }
