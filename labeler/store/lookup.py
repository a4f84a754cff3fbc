"""Look-ups: the label that stands for each of many features, in one request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from sqlalchemy import Connection

from labeler.store.people import person_rows
from labeler.store.queries import LabelFilter, LabelRow, rows_at, sets_of
from labeler.store.store import Store


class Choose(StrEnum):
    """Which label stands for a feature that has several."""

    NEWEST = "newest"  # of the newest label set that has one
    BEST = "best"  # with the highest score
    PERSON = "person"  # that a person wrote, of the newest label set that has one; else the newest


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
            sets = [s for s in sets_of(connection, LabelFilter(sae=sae)) if label_sets is None or s in label_sets]
            for row in _labels_of(connection, sorted(sets, reverse=True), features, choose):
                found[sae, row["feature_index"]] = {**row, "sae": sae}
    return [found.get(pair) for pair in pairs]


def _labels_of(connection: Connection, sets: Sequence[int], features: set[int], choose: Choose) -> Iterable[LabelRow]:
    best: dict[int, LabelRow] = {}
    if choose is Choose.PERSON:
        for set_id in sets:
            best = {row["feature_index"]: row for row in person_rows(connection, set_id, features)} | best
        features = features - best.keys()
    missing = features
    for set_id in sets:
        for row in rows_at(connection, set_id, missing):
            if row["label"] is not None and _is_better(row, best.get(row["feature_index"])):
                best[row["feature_index"]] = row
        if choose is not Choose.BEST:
            missing = missing - best.keys()
        if not missing:
            break
    return best.values()


def _is_better(row: LabelRow, other: LabelRow | None) -> bool:
    return other is None or (row["score"] is not None and (other["score"] is None or row["score"] > other["score"]))
