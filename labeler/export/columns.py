"""The columns of an exported label set as Parquet's fields, and their dictionary for the documentation.

They are declared in labeler/schema.py:

    python -m labeler.export.columns > docs/columns.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from labeler.schema import CONTEXTS, FIXED, MAIN, REVIEWED, SCORES, Column, Kind, ScoreKind, column_of, score_columns

_TYPES: dict[Kind, pa.DataType] = {
    Kind.TEXT: pa.string(),
    Kind.COUNT: pa.int64(),
    Kind.NUMBER: pa.float64(),
    Kind.TIME: pa.timestamp("us", tz="UTC"),
    Kind.CONTEXTS: pa.list_(
        pa.struct({"text": pa.string(), "tokens": pa.list_(pa.string()), "activations": pa.list_(pa.float64())})
    ),
}
READ_CSV = 'pd.read_csv("labels.csv", keep_default_na=False, na_values=[""], dtype={"label": "str"})'


def field(column: Column) -> pa.Field:
    """Return the Parquet field of the column, with its meaning and range in the metadata."""
    said = {"description": column.meaning, "range": column.range}
    return pa.field(column.name, _TYPES[column.kind], metadata={key: text for key, text in said.items() if text})


def dictionary() -> str:
    """Write the dictionary of columns as Markdown: docs/columns.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The columns of an exported label set"
    yield ""
    yield "<!-- Written by `python -m labeler.export.columns > docs/columns.md`; a test compares the two. -->"
    yield ""
    yield "JSONL, CSV and Parquet have these columns in this order, one row for each feature that has a result. Nothing is ever"
    yield "NaN: an undefined number is null, and empty in CSV. Parquet carries the meaning and the range of each column in the"
    yield "metadata of its field (`description` and `range`)."
    yield ""
    yield from _table(FIXED)
    yield ""
    yield "## Scores"
    yield ""
    yield "After `baseline_token_lookup` come the other scores that results of the label set have, in this order; a score that"
    yield "no result has, has no columns. The score of a scorer that is not declared here comes last, under its own name."
    yield ""
    yield "| column | range | meaning |"
    yield "|---|---|---|"
    yield from (_score(kind) for kind in SCORES.values() if kind.name != MAIN)
    yield ""
    example = score_columns("detection")
    yield "Each has the columns of `detection`. The value and the number are there whenever the score is, and the others where"
    yield "any result has them:"
    yield ""
    yield from _table(example[1:])
    yield ""
    yield "REST filters by a number of this list with `NAME_min` and `NAME_max`, and by the width of a score's interval with"
    yield "`detection_width_max`. Values, ends of intervals and p-values can be filtered and sorted; n, z, baseline and reason"
    yield "cannot."
    yield ""
    yield "## Reviews and contexts"
    yield ""
    yield "Only in label sets that people have reviewed:"
    yield ""
    yield from _table(REVIEWED)
    yield ""
    yield "Only with `--top-contexts`:"
    yield ""
    yield from _table((CONTEXTS,))
    yield ""
    yield "## Reading CSV"
    yield ""
    yield "A label may be `NA`, `null` or `None`, and pandas takes such text for a missing value unless it is told not to:"
    yield ""
    yield "```python"
    yield READ_CSV
    yield "```"
    yield ""
    yield "Polars and DuckDB read the text as it is; tell them the type of `label` where all labels might be numbers. JSONL and"
    yield "Parquet need no such care."
    yield ""
    yield "A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` as a formula, and labels quote texts of strangers. For"
    yield "spreadsheets, export with `--spreadsheet`: an apostrophe stands before each text that could be run, and line breaks"
    yield "and tabs become visible signs. That form is for reading; `labeler import` refuses it."


def _table(columns: Iterable[Column]) -> Iterator[str]:
    yield "| column | type | range or unit | meaning |"
    yield "|---|---|---|---|"
    for column in columns:
        yield f"| `{column.name}` | {column.kind} | {column.range} | {column.meaning} |"


def _score(kind: ScoreKind) -> str:
    return f"| `{column_of(kind.name)}` | {score_columns(kind.name)[0].range} | {kind.meaning} |"


if __name__ == "__main__":
    print(dictionary(), end="")
