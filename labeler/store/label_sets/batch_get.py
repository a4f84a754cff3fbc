"""Look-ups: the default label of each of many features, in one request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection

from labeler.store.base.store import Store
from labeler.store.label_sets.choice import candidates
from labeler.store.label_sets.queries import LabelRow, rows_at
from labeler.store.label_sets.written import person_rows
from labeler.terms import Choose


def batch_get(
    store: Store,
    pairs: Sequence[tuple[int, int]],
    *,
    label_sets: Collection[int] | None = None,
    choose: Choose = Choose.DEFAULT,
    with_scores: bool = False,
) -> list[LabelRow | None]:
    """Return the label of each (SAE id, feature index), in their order; None where no label set has one."""
    wanted: dict[int, set[int]] = {}
    for sae, feature in pairs:
        wanted.setdefault(sae, set()).add(feature)
    found: dict[tuple[int, int], LabelRow] = {}
    with store.database.reading() as connection:
        for sae, sets in _sets_of(connection, wanted, label_sets, choose).items():
            for row in _labels_of(connection, sets, wanted[sae], choose, with_scores):
                found[sae, row["feature_index"]] = {**row, "sae": sae}
    return [found.get(pair) for pair in pairs]


def _sets_of(
    connection: Connection, saes: Collection[int], label_sets: Collection[int] | None, choose: Choose
) -> dict[int, list[int]]:
    """List the label sets of each of these SAEs in order of preference; `label_sets` limits the choice."""
    found = candidates(connection, saes=saes, among=label_sets, counted=choose is not Choose.NEWEST)
    found.sort(key=lambda c: c.id if choose is Choose.NEWEST else c.rank, reverse=True)
    by_sae: dict[int, list[int]] = {}
    for candidate in found:
        by_sae.setdefault(candidate.sae_id, []).append(candidate.id)
    return by_sae


def _labels_of(
    connection: Connection, sets: Sequence[int], features: set[int], choose: Choose, with_scores: bool
) -> Iterable[LabelRow]:
    best: dict[int, LabelRow] = {}
    if choose is Choose.PERSON:
        for set_id in sorted(sets, reverse=True):
            best = {row["feature_index"]: row for row in person_rows(connection, set_id, features)} | best
        features = features - best.keys()
    missing = features
    for set_id in sets:
        for row in rows_at(connection, set_id, missing, with_scores=with_scores):
            if row["label"] is not None and _is_better(row, best.get(row["feature_index"])):
                best[row["feature_index"]] = row
        if choose is not Choose.BEST:
            missing = missing - best.keys()
        if not missing:
            break
    return best.values()


def _is_better(row: LabelRow, other: LabelRow | None) -> bool:
    return other is None or (row["score"] is not None and (other["score"] is None or row["score"] > other["score"]))
