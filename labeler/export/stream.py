"""A label set as a stream of bytes, for files and for HTTP. One batch of rows is in memory at a time.

Each part of a label set, from one feature to another, is a complete file, also in Parquet: a reader whose
connection broke asks for the rest, and tools read a folder of parts as one table.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter, WriteOptions

from labeler.errors import ConflictError, InputError
from labeler.export.card import build_card
from labeler.export.columns import field
from labeler.export.spreadsheet import inert
from labeler.schema import CONTEXTS, Column, Kind, columns_of
from labeler.store import LabelSetInfo, Store
from labeler.store.base.columns import scores_in, version_of_rows
from labeler.store.base.database import Snapshot
from labeler.store.label_sets.imported import is_imported
from labeler.store.label_sets.scan import Batch, scan_columns
from labeler.store.label_sets.written import people_say

FORMATS = ("jsonl", "csv", "parquet")
MEDIA_TYPES = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_LINES_AT_ONCE = 500


@dataclass(frozen=True)
class LabelRows:
    """The results of a label set in the order of features, as plain values."""

    same: dict[str, Any]  # columns that have one value in all rows
    columns: tuple[Column, ...]  # all, in the order of a file
    batches: Iterator[Batch]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([field(column) for column in self.columns])


def read_rows(
    store: Store, label_set_id: int, after: int = -1, limit: int | None = None, connection: Snapshot | None = None
) -> LabelRows:
    """Read at most `limit` rows behind feature `after`. Raises NotFoundError.

    Each batch is a query of its own, so that a slow reader blocks nothing. It uses `connection` if one is given.
    """
    info, recipe = store.label_set(label_set_id), store.recipe_of(label_set_id)
    same = {
        "subject": info.subject,
        "hookpoint": info.hookpoint,
        "sae": info.sae,
        "label_set_id": made_as(store, info),
        "simulator": info.simulator,
        "prompt_version": recipe["explainer"]["prompt_version"],
        "recipe_hash": info.recipe_hash,
    }
    if connection is None:
        store.count_changes(label_set_id)
    # A batch is of one moment: its scores come from columns, and everything else from rows.
    reading = store.database.snapshot if connection is None else lambda: nullcontext(connection)
    with reading() as inside:
        scores = scores_in(inside, label_set_id)
    columns = columns_of(scores, reviewed=any(people_say(store, label_set_id).values()))
    return LabelRows(same, columns, scan_columns(store, reading, label_set_id, columns, after, limit))


def made_as(store: Store, info: LabelSetInfo) -> int:
    """Return the id under which the labels were made. Imported labels keep their first id."""
    if not is_imported(info.evidence_path):
        return info.id
    card = store.manifest_of(info.id)["imported"]["card"]
    return int([*card.get("imported", []), card][0]["label_set"])


def encode_version(
    store: Store,
    label_set_id: int,
    format: str,
    version: str,
    shown: Callable[[Any], Any] = lambda value: value,
    *,
    spreadsheet: bool = False,
) -> Iterator[bytes]:
    """Yield the whole file of this version of the label set (labeler/store/base/columns.py).

    Raises ConflictError if the label set has another version by now.

    `shown` removes from the card, and from the values that all rows share, what others may not see.
    """
    card = shown(build_card(store, label_set_id)) if format == "parquet" else {}
    with store.database.snapshot() as connection:
        if version_of_rows(connection, label_set_id) != version:
            raise ConflictError(f"label set {label_set_id} has changed: ask again")
        rows = read_rows(store, label_set_id, connection=connection)
        yield from encode_rows(format, replace(rows, same=shown(rows.same)), lambda: card, spreadsheet=spreadsheet)


def encode_rows(
    format: str, rows: LabelRows, card: Callable[[], dict[str, Any]], *, spreadsheet: bool = False
) -> Iterator[bytes]:
    """Yield the file with these rows, piece by piece. The card goes inside if the format has a place for it.

    `spreadsheet`: CSV whose text no spreadsheet runs as a formula. Raises InputError.
    """
    if spreadsheet and format != "csv":
        raise InputError(f"spreadsheet is a form of csv, and not of {format}: leave out one of them")
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known: choose one of {', '.join(FORMATS)}")
    if format == "parquet":
        return _parquet(rows, card())
    return _csv(rows, spreadsheet) if format == "csv" else _jsonl(rows)


def _jsonl(rows: LabelRows) -> Iterator[bytes]:
    columns = [column.name for column in rows.columns]
    for batch in rows.batches:
        n = len(batch["feature_index"])
        values = [repeat(rows.same[c.name], n) if c.of_the_set else _plain(batch[c.name], c.kind) for c in rows.columns]
        lines = (orjson.dumps(dict(zip(columns, row, strict=True))) for row in zip(*values, strict=True))
        while some := b"\n".join(islice(lines, _LINES_AT_ONCE)):
            yield some + b"\n"


def _plain(values: Sequence[Any] | np.ndarray, kind: Kind) -> Sequence[Any]:
    """Return Python's numbers; NaN, which orjson writes as null, stays in a list of floats."""
    if not isinstance(values, np.ndarray):
        return values
    if kind is Kind.COUNT:
        return [None if value != value else int(value) for value in values.tolist()]
    plain: list[Any] = values.tolist()
    return plain


def _csv(rows: LabelRows, spreadsheet: bool = False) -> Iterator[bytes]:
    yield (",".join(column.name for column in rows.columns) + "\n").encode()
    schema = pa.schema([(f.name, pa.string() if f.name in _TEXT_IN_CSV else f.type) for f in rows.schema])
    texts = [c.name for c in rows.columns if c.kind in (Kind.TEXT, Kind.CONTEXTS) and not c.of_the_set]
    if spreadsheet:
        rows = replace(rows, same={name: inert(v) if isinstance(v, str) else v for name, v in rows.same.items()})
    for batch in rows.batches:
        if rows.columns[-1] is CONTEXTS:
            batch |= {CONTEXTS.name: [json.dumps(value, ensure_ascii=False) for value in batch[CONTEXTS.name]]}
        if spreadsheet:
            batch |= {name: [v and inert(v) for v in batch[name]] for name in texts}
        sink = _Sink()
        with CSVWriter(
            pa.PythonFile(sink, mode="w"),
            schema,
            write_options=WriteOptions(include_header=False, quoting_style="needed"),
        ) as writer:
            writer.write_table(_table(rows, batch, schema))
        yield sink.take()


_TEXT_IN_CSV = frozenset(("created_at", CONTEXTS.name))


def _parquet(rows: LabelRows, card: dict[str, Any]) -> Iterator[bytes]:
    inside = {b"labeler.card": json.dumps(card, ensure_ascii=False, allow_nan=False).encode()}
    schema, sink = rows.schema, _Sink()
    # Many rows share one value.
    repeated = [c.name for c in rows.columns if c.of_the_set or c.part == "reason" or c.name in _REPEATED]
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"), schema.with_metadata(inside), compression="zstd", use_dictionary=repeated
    ) as writer:
        for batch in rows.batches:
            writer.write_table(_table(rows, batch, schema))
            yield sink.take()
    yield sink.take()


_REPEATED = frozenset(("state", "explainer", "reason", "created_at"))


def _table(rows: LabelRows, batch: Batch, schema: pa.Schema) -> pa.Table:
    n = len(batch["feature_index"])
    arrays = [
        _array(batch[field.name], field.type)
        if field.name in batch
        else pa.repeat(pa.scalar(rows.same[field.name], field.type), n)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray):
        return pa.array(values, from_pandas=True).cast(kind)
    # The database has formatted times as text already.
    return pa.array(values).cast(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)


class _Sink(io.RawIOBase):
    """A file whose bytes are taken out while it is written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken
