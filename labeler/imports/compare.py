"""Comparison of two label sets, given by their ids in a database or as exported files."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from labeler.errors import ConflictError, InputError, NotFoundError
from labeler.export.export import export_label_set
from labeler.imports.labels import import_labels
from labeler.store import Store, open_store
from labeler.store.label_sets.compare import Comparison, compare_sets


def compare(a: str, b: str, store: Store | None, limit: int = 20, score: str = "score") -> Comparison:
    """Compare two label sets by a score. `a` and `b` are ids in `store`, or files; a file may be a part.

    Raises NotFoundError, FormatError, InputError, or MismatchError for label sets of different SAEs.
    """
    if a.isdecimal() and b.isdecimal():
        return compare_sets(_needed(store), int(a), int(b), limit, score)
    # Files become label sets of a temporary database: one way to compare, and little memory.
    with tempfile.TemporaryDirectory(prefix="labeler-diff-") as folder:
        beside = open_store(str(Path(folder) / "both.db"))
        try:
            ids = [
                _brought(beside, name, store, Path(folder) / f"{place}.parquet")
                for place, name in zip("ab", (a, b), strict=True)
            ]
            found = compare_sets(beside, ids[0], ids[1], limit, score)
        finally:
            beside.close()
    return replace(found, a=int(a) if a.isdecimal() else 0, b=int(b) if b.isdecimal() else 0)


def _brought(beside: Store, name: str, store: Store | None, copy: Path) -> int:
    path = Path(name)
    if name.isdecimal():
        export_label_set(_needed(store), int(name), "parquet", copy)
        path = copy
    elif not path.exists():
        raise NotFoundError(f"{name!r} is neither the id of a label set nor a file")
    try:
        return import_labels(beside, path, part=True).label_set
    except ConflictError:  # the same file twice: the label set is there already
        return beside.newest_label_set().id


def _needed(store: Store | None) -> Store:
    if store is None:
        raise InputError("a label set is given by its id, but there is no database: name one with --db")
    return store
