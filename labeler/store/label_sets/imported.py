"""Imported label sets: kept as label sets of their own, with their origin.

Their evidence is not here. In its place stands a row whose manifest says `imported`, and whose path is not a real one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from labeler.errors import ConflictError
from labeler.store.base.store import Store
from labeler.store.label_sets.queries import among
from labeler.store.tables.imported import IMPORTED_CONTEXTS, NO_FOLDER
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS


@dataclass(frozen=True)
class Origins:
    """The origin of an imported label set: the records it is stored under."""

    manifest: dict[str, Any]  # its `hash` is the file's: two files are two label sets, one file is one
    file: str
    recipe: dict[str, Any]
    explainer: str
    simulator: str
    created_at: datetime


def is_imported(evidence_path: str) -> bool:
    return evidence_path.startswith(NO_FOLDER)


def save_imported(
    store: Store, origins: Origins, batches: Iterable[tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]]]]
) -> int:
    """Save an imported label set and return its id.

    All batches are saved in one transaction, so an error while they are read leaves nothing behind. Raises
    ConflictError for a file that was imported before.
    """
    with store.database.writing() as connection:
        _refuse_twice(connection, origins)
        label_set = store.label_set_in(
            connection,
            origins.manifest,
            NO_FOLDER + origins.file,
            origins.recipe,
            (origins.explainer, origins.simulator),
            origins.created_at,
        )
        for rows, contexts in batches:
            store.save_rows_in(connection, label_set, [{"label_set_id": label_set, **row} for row in rows])
            if contexts:
                values = [
                    {"label_set_id": label_set, "feature_index": feature, "contexts": kept}
                    for feature, kept in contexts.items()
                ]
                connection.execute(insert(IMPORTED_CONTEXTS), values)
    return label_set


def _refuse_twice(connection: Connection, origins: Origins) -> None:
    joined = LABEL_SETS.join(EVIDENCE, LABEL_SETS.c.evidence_id == EVIDENCE.c.id)
    here = (EVIDENCE.c.hash == origins.manifest["hash"]) & (LABEL_SETS.c.recipe_hash == origins.recipe["hash"])
    known = connection.execute(select(LABEL_SETS.c.id).select_from(joined).where(here)).scalar_one_or_none()
    if known is not None:
        raise ConflictError(f"{origins.file}: this file is here already, as label set {known}")


def evidence_folder(store: Store, label_set_id: int) -> str:
    """Return the evidence folder of a label set.

    For an imported one, it is the folder of the same evidence where that is known here.
    """
    path = store.label_set(label_set_id).evidence_path
    if not is_imported(path):
        return path
    original = store.manifest_of(label_set_id)["imported"]["card"]["evidence"]["hash"]
    with store.database.reading() as connection:
        known = connection.execute(select(EVIDENCE.c.path).where(EVIDENCE.c.hash == original)).scalar_one_or_none()
    return path if known is None else str(known)


def imported_contexts(store: Store, label_set_id: int, features: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the contexts that were imported with these features, strongest first; none for a feature without any."""
    with store.database.reading() as connection:
        query = select(IMPORTED_CONTEXTS.c.feature_index, IMPORTED_CONTEXTS.c.contexts).where(
            IMPORTED_CONTEXTS.c.label_set_id == label_set_id,
            among(connection, IMPORTED_CONTEXTS.c.feature_index, list(features)),
        )
        return dict(map(tuple, connection.execute(query)))


def has_contexts(store: Store, label_set_id: int) -> bool:
    query = select(IMPORTED_CONTEXTS.c.feature_index).where(IMPORTED_CONTEXTS.c.label_set_id == label_set_id)
    with store.database.reading() as connection:
        return connection.execute(query.limit(1)).first() is not None
