"""A label set as a stream of bytes, for files and for HTTP. One batch of rows is in memory at a time.

Each part of a label set, from one feature to another, is a complete file, also in Parquet: a reader whose
connection broke asks for the rest, and tools read a folder of parts as one table.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter, WriteOptions
from sqlalchemy import Connection, String, case, cast, func, select, type_coerce

from labeler.errors import ConflictError, InputError
from labeler.export.card import build_card
from labeler.export.columns import field
from labeler.export.spreadsheet import inert
from labeler.schema import CONTEXTS, REVIEWED, Column, Kind, columns_of
from labeler.store import LabelSetInfo, Store
from labeler.store.columns import read_scores, scores_in, version_of_rows
from labeler.store.database import fetch_plain
from labeler.store.imported import is_imported
from labeler.store.people import people_say
from labeler.store.service_tables import STANDINGS
from labeler.store.tables import RESULTS

FORMATS = ("jsonl", "csv", "parquet")
MEDIA_TYPES = {
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
_ROWS_AT_ONCE = 10_000
_LINES_AT_ONCE = 500

Batch = dict[str, Any]  # the values of some rows by column: sequences, or arrays with NaN where there is no number
Reading = Callable[[], AbstractContextManager[Connection]]


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
    store: Store, label_set_id: int, after: int = -1, limit: int | None = None, connection: Connection | None = None
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
    return LabelRows(same, columns, _batches(store, reading, label_set_id, columns, after, limit))


def made_as(store: Store, info: LabelSetInfo) -> int:
    """Return the id under which the labels were made. Imported labels keep their first id."""
    if not is_imported(info.evidence_path):
        return info.id
    card = store.manifest_of(info.id)["imported"]["card"]
    return int([*card.get("imported", []), card][0]["label_set"])


def _batches(
    store: Store, reading: Reading, label_set_id: int, columns: tuple[Column, ...], after: int, limit: int | None
) -> Iterator[Batch]:
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


def encode_version(
    store: Store,
    label_set_id: int,
    format: str,
    version: str,
    shown: Callable[[Any], Any] = lambda value: value,
    *,
    spreadsheet: bool = False,
) -> Iterator[bytes]:
    """Yield the whole file of this version of the label set (labeler/store/columns.py).

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
