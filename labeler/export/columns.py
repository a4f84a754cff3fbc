"""The columns of an exported label set, declared once: order, type, unit or range, and meaning.

Exports, imports, the metadata of Parquet's fields and docs/columns.md all follow from COLUMNS:

    python -m labeler.export.columns > docs/columns.md
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from labeler.records import State

TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """One column. `low` and `high` bound its numbers; an `of_the_set` text is the same in all rows."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    of_the_set: bool = False
    is_new: bool = False  # older files, written before the column was added, are imported without it

    @property
    def range(self) -> str:
        """Write the unit and the bounds for people; empty where there are none."""
        low, high = self.low, self.high
        ends = (
            ""
            if math.isinf(low) and math.isinf(high)
            else f"{low:g} or more"
            if math.isinf(high)
            else f"{low:g} to {high:g}"
        )
        return ", ".join(part for part in (self.unit, ends) if part)

    @property
    def field(self) -> pa.Field:
        """Return the Parquet field of the column, with its meaning and range in the metadata."""
        said = {"description": self.meaning, "range": self.range}
        return pa.field(self.name, self.type, metadata={key: text for key, text in said.items() if text})


def _text(name: str, meaning: str, unit: str = "", *, of_the_set: bool = False, is_new: bool = False) -> Column:
    return Column(name, pa.string(), meaning, unit, of_the_set=of_the_set, is_new=is_new)


def _count(name: str, meaning: str, unit: str, *, of_the_set: bool = False, is_new: bool = False) -> Column:
    return Column(name, pa.int64(), meaning, unit, 0, of_the_set=of_the_set, is_new=is_new)


def _number(
    name: str, meaning: str, low: float = -math.inf, high: float = math.inf, unit: str = "", is_new: bool = False
) -> Column:
    return Column(name, pa.float64(), meaning, unit, low, high, is_new=is_new)


_STATES = ", ".join(state.value for state in State if state is not State.PENDING)
_WEIGHTED = "The score weighted by the windows that each scored one stands for: an estimate for the whole corpus."

DECLARED: tuple[Column, ...] = (
    _text("subject", "The language model: its hub id, the name it was given, or the last folders of its path.", of_the_set=True),
    _text("hookpoint", "The module whose output the SAE reads; `PATH:input` where it is the input.", "module path", of_the_set=True),
    _text("sae", "The SAE: its hub id, the name it was given, or the last folders of its path.", of_the_set=True),
    _count("label_set_id", "The label set in the database in which the labels were made.", "id", of_the_set=True, is_new=True),
    _count("feature_index", "The feature of the SAE.", "index"),
    _text("state", "Whether there is a label, and else why not.", f"one of {_STATES}"),
    _text("label", "The text hypothesis about the feature. Empty unless the state is labeled.", "one line"),
    _text("explainer", "The writer of the label: `lookup`, or the kind of endpoint and the model.", "lookup or KIND:MODEL"),
    _text("simulator", "The predictor of activations from the label.", "lookup or KIND:MODEL", of_the_set=True, is_new=True),
    _number("score", "Pearson correlation of predicted and true activations on held-out documents, TOP and RANDOM windows.", -1, 1),
    _number("score_low", "Lower end of the score's interval, 95% unless the recipe says otherwise, with the document as the unit.", -1, 1),
    _number("score_high", "Upper end of the score's interval.", -1, 1),
    _count("score_n", "Held-out windows that the score rests on.", "windows"),
    _number("score_weighted", _WEIGHTED, -1, 1),
    _number("score_weighted_low", "Lower end of the weighted score's interval.", -1, 1, is_new=True),
    _number("score_weighted_high", "Upper end of the weighted score's interval.", -1, 1, is_new=True),
    _number("score_null_z", "The score's distance from those of unrelated labels on the same windows.", unit="standard deviations"),
    _number("score_null_p", "Share of unrelated labels that score as high: the p-value of the null.", 0, 1),
    _number("baseline_token_lookup", "The score of the token look-up on the same windows.", -1, 1),
    _number("detection", "Balanced accuracy of telling windows that fire from others by the label; chance is 0.5.", 0, 1),
    _number("fuzzing", "Balanced accuracy of telling rightly from wrongly marked tokens by the label; chance is 0.5.", 0, 1),
    _number("density", "Share of the corpus's tokens on which the feature fires.", 0, 1),
    _number("max_activation", "The highest activation in the corpus.", 0, unit="units of the SAE"),
    _count("n_firings", "Tokens of the corpus on which the feature fires.", "tokens"),
    _text("prompt_version", "The explainer's method and the version of its prompt.", of_the_set=True),
    _text("recipe_hash", "Hash of all that decides a result; the card holds the recipe itself.", "hexadecimal", of_the_set=True),
    _count("tokens_in", "Tokens that LLMs read for this feature.", "tokens"),
    _count("tokens_out", "Tokens that LLMs wrote for this feature.", "tokens"),
    _number("cost_usd", "Cost of these tokens; empty where a price is unknown.", 0, unit="US dollars"),
    Column("created_at", TIME, "The moment at which the result was stored.", "UTC; ISO 8601 with its zone in JSONL and CSV"),
    # A missing label or score needs its reason, and a bill its requests.
    _text("reason", "The reason why there is no label. Empty where there is one."),
    _text("score_reason", "The reason why there is no score, where there is none."),
    _count("requests", "Requests to LLMs for this feature.", "requests"),
)  # fmt: skip

# Only in label sets that people have reviewed: the newest verdict on the present label, and the newest label that a person wrote.
REVIEWED: tuple[Column, ...] = (
    _text("verdict", "The newest verdict of a person on the label as it is.", "accept, reject or better"),
    _text("person_label", "The newest label that a person wrote for the feature; it is not scored."),
    _text("person", "The writer of that label, by the name of the key."),
)
TOP_CONTEXTS = "top_contexts"
TOP_CONTEXTS_TYPE = pa.list_(
    pa.struct({"text": pa.string(), "tokens": pa.list_(pa.string()), "activations": pa.list_(pa.float64())})
)
_CONTEXTS = Column(
    TOP_CONTEXTS, TOP_CONTEXTS_TYPE, "The feature's strongest EXPLAIN windows: text, tokens, and an activation for each.",
    "units of the SAE; JSON in CSV",
)  # fmt: skip

COLUMNS: dict[str, pa.DataType] = {column.name: column.type for column in DECLARED}
REVIEWS: dict[str, pa.DataType] = {column.name: column.type for column in REVIEWED}
MORE_COLUMNS: dict[str, pa.DataType] = {**REVIEWS, TOP_CONTEXTS: TOP_CONTEXTS_TYPE}  # in this order, if they are there
BY_NAME: dict[str, Column] = {column.name: column for column in (*DECLARED, *REVIEWED, _CONTEXTS)}
OF_THE_SET = frozenset(column.name for column in DECLARED if column.of_the_set)
NEW = frozenset(column.name for column in DECLARED if column.is_new)  # columns that older files lack
TEXTS = frozenset(name for name, column in BY_NAME.items() if column.type == pa.string()) | {TOP_CONTEXTS}

READ_CSV = 'pd.read_csv("labels.csv", keep_default_na=False, na_values=[""], dtype={"label": "str"})'


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
    yield from _table(DECLARED)
    yield ""
    yield "Only in label sets that people have reviewed:"
    yield ""
    yield from _table(REVIEWED)
    yield ""
    yield "Only with `--top-contexts`:"
    yield ""
    yield from _table((_CONTEXTS,))
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


def _table(columns: tuple[Column, ...]) -> Iterator[str]:
    yield "| column | type | range or unit | meaning |"
    yield "|---|---|---|---|"
    for column in columns:
        yield f"| `{column.name}` | {_type(column.type)} | {column.range} | {column.meaning} |"


def _type(kind: pa.DataType) -> str:
    plain = {"string": "text", "int64": "whole number", "double": "number"}
    return plain.get(str(kind), "time" if pa.types.is_timestamp(kind) else "list of contexts")


if __name__ == "__main__":
    print(dictionary(), end="")
