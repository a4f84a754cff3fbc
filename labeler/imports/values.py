"""Checks of the values of one imported row against what a label set allows: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa

from labeler.errors import FormatError
from labeler.export.columns import BY_NAME, COLUMNS, TIME, TOP_CONTEXTS
from labeler.records import State
from labeler.store.reviews import LONGEST_LABEL
from labeler.store.tables import in_utc

_LARGEST = 2**62
_NEEDED = ("subject", "hookpoint", "sae", "feature_index", "state", "prompt_version", "recipe_hash", "requests", "tokens_in",
           "tokens_out", "created_at")  # fmt: skip
_STATES = frozenset(state.value for state in State if state is not State.PENDING)
_OF_A_LABEL = (
    "explainer", "score", "score_low", "score_high", "score_weighted", "score_weighted_low", "score_weighted_high", "detection",
    "fuzzing",
)  # fmt: skip
_LONGEST = {"label": LONGEST_LABEL}  # characters; the limit for labels of LLMs and people
_LONGEST_TEXT = 100_000  # characters of any other text
_SHOWN = 80  # characters of a bad value in a message


def checked(where: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with the types of COLUMNS and `created_at` as a time. A FormatError begins with `where`."""
    values = {name: _value(where, name, row.get(name)) for name in COLUMNS}
    if missing := next((name for name in _NEEDED if values[name] is None), None):
        raise FormatError(f"{where}: {missing} is empty")
    _check_state(where, values)
    if TOP_CONTEXTS in row:
        values[TOP_CONTEXTS] = _contexts(where, row[TOP_CONTEXTS])
    return values


def _value(where: str, name: str, value: Any) -> Any:
    if value is None:
        return None
    return _READ[name](where, name, value)


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: {name} is {_shown(value)}: expected text")
    if len(value) > (longest := _LONGEST.get(name, _LONGEST_TEXT)):
        raise FormatError(
            f"{where}: {name} has {len(value):,} characters, but at most {longest:,} are kept: {_shown(value)}"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{where}: {name} holds half of a surrogate pair, which is not text") from None
    if "\0" in value:
        raise FormatError(f"{where}: {name} holds a null character, which is not text")
    return value


def _integer(where: str, name: str, value: Any) -> int:
    # Other tools turn whole numbers into decimals where a column has gaps.
    number = _finite(value)
    if number is None or not number.is_integer() or not 0 <= number < _LARGEST:
        raise FormatError(f"{where}: {name} is {_shown(value)}: expected a whole number, 0 or more")
    return value if isinstance(value, int) else int(number)


def _finite(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _number(where: str, name: str, value: Any) -> float:
    number, low, high = _finite(value), BY_NAME[name].low, BY_NAME[name].high
    if number is None or not low - 1e-9 <= number <= high + 1e-9:
        between = f" from {low:g} to {high:g}" if math.isfinite(low) or math.isfinite(high) else ""
        raise FormatError(f"{where}: {name} is {_shown(value)}: expected a finite number{between}, or nothing")
    return number


def _moment(where: str, name: str, value: Any) -> datetime:
    """Read a time, which is a datetime in Parquet and a text in other formats and in older files."""
    if isinstance(value, datetime):
        return in_utc(value)
    try:
        return in_utc(datetime.fromisoformat(_text(where, name, value)))
    except ValueError:
        raise FormatError(
            f"{where}: {name} is {_shown(value)}: expected a time such as 2026-01-02T03:04:05+00:00"
        ) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_OF_TYPE: dict[pa.DataType, Callable[[str, str, Any], Any]] = {
    pa.string(): _text, pa.int64(): _integer, pa.float64(): _number, TIME: _moment,
}  # fmt: skip
_READ = {name: _OF_TYPE[kind] for name, kind in COLUMNS.items()}


def _check_state(where: str, values: dict[str, Any]) -> None:
    state = values["state"]
    if state not in _STATES:
        raise FormatError(f"{where}: state is {_shown(state)}: expected one of {', '.join(sorted(_STATES))}")
    is_labeled = state == State.LABELED
    if is_labeled != (values["label"] is not None):
        raise FormatError(
            f"{where}: the state is {state} and label is {_shown(values['label'])}: they do not go together"
        )
    if not is_labeled and not values["reason"]:
        raise FormatError(f"{where}: a {state} feature has no reason")
    if not is_labeled and (has := next((name for name in _OF_A_LABEL if values[name] is not None), None)):
        raise FormatError(f"{where}: a {state} feature has a value of {has}")
    if values["score"] is not None and values["score_reason"] is not None:
        raise FormatError(f"{where}: a score, and a reason why there is none")


def _contexts(where: str, value: Any) -> list[dict[str, Any]]:
    try:
        contexts = orjson.loads(value) if isinstance(value, str) else value
        return [_context(context) for context in contexts or ()]
    except (ValueError, TypeError, KeyError):
        raise FormatError(
            f"{where}: top_contexts are not a list of text, tokens and as many finite activations each"
        ) from None


def _context(context: dict[str, Any]) -> dict[str, Any]:
    tokens, activations = context["tokens"], context["activations"]
    if len(tokens) != len(activations) or "".join(tokens) != context["text"] or "\0" in context["text"]:
        raise ValueError
    numbers = [float(a) for a in activations]
    if not all(map(math.isfinite, numbers)):
        raise ValueError
    return {"text": context["text"], "tokens": list(tokens), "activations": numbers}
