"""Import of an exported label set into a database: `import_labels` tells the story.

The file is read twice: once to check all of it, so that bad input touches no database, and once to store it, in one
transaction. The labels keep their maker: they become a separate label set, with its card and its origin.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import FormatError
from labeler.imports.card import Belongs, origins_of, read_card, scores_in_card
from labeler.imports.files import names_in, read_rows
from labeler.imports.values import Known, checked, known_columns
from labeler.schema import CONTEXTS, FIXED, in_order
from labeler.store import Store
from labeler.store.base.rows import on_the_row
from labeler.store.label_sets.imported import save_imported

_ROWS_AT_ONCE = 250


@dataclass(frozen=True)
class Imported:
    """The result of an import: the new label set, and the columns of the file that were left out."""

    label_set: int
    n_features: int
    n_contexts: int
    columns_left_out: list[str]  # unknown ones, and reviews: the file does not say who gave a verdict, nor when


def import_labels(store: Store, path: Path, card: Path | None = None, *, part: bool = False) -> Imported:
    """Store the label set in the JSONL, CSV or Parquet file at `path`.

    `part`: the file may hold fewer features than its card counts.

    Raises NotFoundError, FormatError or MismatchError that name the line, and ConflictError for a file that is here
    already; nothing is stored then.
    """
    says = read_card(path, card)
    with _named(path):
        known = known_columns(scores_in_card(path, says))
        n_features, n_contexts = _check(path, Belongs(path, says), known, part)
        left_out = [name for name in names_in(path) if name not in known]
        batches = _batches(path, says, known)
        label_set = save_imported(store, origins_of(path, says, n_features), batches)
    return Imported(label_set, n_features, n_contexts, left_out)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what a card of values of other kinds than ours leads to into a FormatError; the rows are checked one by one."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError) as error:
        cause = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise FormatError(
            f"the card of {path}: a value in it is of another kind than `labeler export` writes ({cause}); give the card that "
            "came with the file"
        ) from error


def _check(path: Path, belongs: Belongs, known: Known, part: bool) -> tuple[int, int]:
    """Check every row of the file, and return the number of features and of contexts."""
    first_at = np.zeros(belongs.n_features, dtype=np.int32)  # the row in which each feature came first
    n = n_contexts = 0
    for n, (place, row) in enumerate(read_rows(path), start=1):
        where = f"{path}, {place}"
        values = checked(where, row, known)
        belongs.check(where, values)
        feature = values["feature_index"]
        if first_at[feature]:
            raise FormatError(
                f"{where}: feature {feature} is there twice, first as feature number {first_at[feature]} of the file"
            )
        first_at[feature] = n
        n_contexts += len(values.get(CONTEXTS.name, ()))
    belongs.check_number(n, part=part)
    return n, n_contexts


def _batches(
    path: Path, card: dict[str, Any], known: Known
) -> Iterator[tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]]]]:
    rows = (checked(f"{path}, {place}", row, known) for place, row in read_rows(path))
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        contexts = {values["feature_index"]: values.pop(CONTEXTS.name, []) for values in batch}
        yield [_result(values, card, known) for values in batch], {f: kept for f, kept in contexts.items() if kept}


def _result(values: dict[str, Any], card: dict[str, Any], known: Known) -> dict[str, Any]:
    """Return the row for the table `result`, without its label set. Values that the file lacks stay empty."""
    scores = _scores(values, known)
    return {
        **{name: values[name] for name in _ON_ROWS},
        **on_the_row(scores),
        "scores": list(scores.values()),
        "simulations": [],
        "label_table": None,
        "origin": None,
        "statistics": _statistics(values, card),
    }


_ON_ROWS = tuple(column.name for column in FIXED if not column.of_the_set and column.score is None)


def _scores(values: dict[str, Any], known: Known) -> dict[str, dict[str, Any]]:
    """Return the scores that the row has, by name: those with a value, and those with a reason why there is none."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        score = known[name].score
        if score is not None and value is not None:
            found.setdefault(score, {"name": score, "value": None})[known[name].part] = value
    return {
        name: found[name] for name in in_order(found) if found[name]["value"] is not None or "reason" in found[name]
    }


def _statistics(values: dict[str, Any], card: dict[str, Any]) -> dict[str, Any]:
    splits = {name: card["splits"][name].get("n_windows") for name in ("explain", "held_out")}
    return {
        "n_tokens": card["corpus"].get("n_tokens"),
        "n_firings": values["n_firings"],
        "n_windows": card["corpus"].get("n_windows"),
        "n_firing_windows": None,
        "n_firing_windows_by_split": {},
        "n_windows_by_split": splits,
        "mean": None,
        "max": values["max_activation"],
        "histogram": [],
    }
