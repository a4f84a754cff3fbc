"""Exports of labeler read back row by row, as JSONL, CSV or Parquet. The content says which format it is.

A few thousand rows are in memory at a time.

Each row comes with its place in the file ("line 12", "row 12"), for errors that a person can act on.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from labeler.errors import FormatError, InputError, NotFoundError
from labeler.schema import FIXED

_ROWS_AT_ONCE = 2000
_LONGEST_LINE = 1 << 26  # bytes of JSONL or characters of CSV; the top_contexts of a feature may take some MB
_MOST_COLUMNS = 1000
_MUST_BE_THERE = tuple(column.name for column in FIXED if not column.is_new)

Row = tuple[str, dict[str, Any]]  # (the place in the file, the values by column)


def kind_of(path: Path) -> str:
    """Return `parquet`, `jsonl` or `csv`, by the first bytes. Raises NotFoundError, InputError or FormatError."""
    if not path.exists():
        raise NotFoundError(f"{path}: no such file; give a label set written by `labeler export`")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the file of a label set, such as {path / 'labels.parquet'}")
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:4] == b"PAR1":
        return "parquet"
    if start.lstrip()[:1] == b"{":
        return "jsonl"
    if b"feature_index" in start.partition(b"\n")[0]:
        return "csv"
    raise FormatError(f"{path}: neither JSONL, CSV nor Parquet of a label set; give a file written by `labeler export`")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield every row, as the file has it. The FormatError names file and line."""
    return {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}[kind_of(path)](path)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(_LONGEST_LINE), b""), start=1):
            place = f"line {number}"
            _check_length(path, number, line)
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                cut = "" if line.endswith(b"\n") else "; the file ends in the middle of it: is it cut?"
                raise FormatError(f"{path}, {place}: not JSON ({error}){cut}") from None
            if not isinstance(row, dict):
                raise FormatError(f"{path}, {place}: expected an object with the columns of a label set")
            _check_columns(f"{path}, {place}", row)
            yield place, row


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_LINE)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_without_nulls(path, file), strict=True)
        number = 0  # the line in which the last row ended
        try:
            header = next(reader)
            _check_columns(str(path), header)
            number = reader.line_num
            for values in reader:
                place, number = f"line {number + 1}", reader.line_num
                if len(values) != len(header):
                    raise FormatError(
                        f"{path}, {place}: {len(values)} values for {len(header)} columns: is the file cut or edited?"
                    )
                yield place, {name: value or None for name, value in zip(header, values, strict=True)}
        except csv.Error as error:
            raise FormatError(f"{path}, line {number + 1}: not CSV ({error}): is the file cut?") from None
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}, after line {number}: not UTF-8 ({error.reason})") from None


def _without_nulls(path: Path, file: IO[str]) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), start=1):
        _check_length(path, number, line)
        if "\0" in line:  # Python 3.11's csv refuses it without saying where, and later versions accept it
            raise FormatError(f"{path}, line {number}: a null character is not text")
        yield line


def _check_length(path: Path, number: int, line: str | bytes) -> None:
    if len(line) >= _LONGEST_LINE:
        raise FormatError(f"{path}, line {number}: longer than {_LONGEST_LINE >> 20} MiB: is this a label set?")


def _parquet(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path}: damaged or cut Parquet ({str(error).splitlines()[0]})") from None


def names_in(path: Path) -> list[str]:
    """List the columns of the file."""
    kind = kind_of(path)
    if kind == "parquet":
        return list(pq.read_schema(path).names)
    if kind == "jsonl":
        return list(next(_jsonl(path))[1])
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file))


def _check_columns(where: str, names: Any) -> None:
    if len(names) > _MOST_COLUMNS:
        raise FormatError(
            f"{where}: {len(names):,} columns, but at most {_MOST_COLUMNS:,} are read: is this a label set?"
        )
    if missing := [name for name in _MUST_BE_THERE if name not in names]:
        raise FormatError(
            f"{where}: the column {', '.join(missing)} is missing; expected the columns of `labeler export`, all of them"
        )
    if len(names) != len(set(names)):
        raise FormatError(f"{where}: a column is there twice")
