"""Checks of the values of one imported row against what a label set allows: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

import orjson

from labeler.errors import FormatError
from labeler.records import State
from labeler.schema import CONTEXTS, DECLARED, FIXED, Column, Kind, Use, score_columns
from labeler.store.tables.label_sets import in_utc
from labeler.terms import LONGEST_LABEL

_LARGEST = 2**62
_FIXED = tuple(column.name for column in FIXED)
_NEEDED = tuple(column.name for column in FIXED if column.needed)
_STATES = frozenset(state.value for state in State if state is not State.PENDING)
_LONGEST = {"label": LONGEST_LABEL}  # characters; the limit for labels of LLMs and people
_LONGEST_TEXT = 100_000  # characters of any other text
_SHOWN = 80  # characters of a bad value in a message

Known = Mapping[str, Column]  # the columns that a file may have, by name


def known_columns(scores: Iterable[str]) -> dict[str, Column]:
    """Return the columns that are imported: the declared ones, and those of these scores."""
    columns = (*DECLARED.values(), *chain.from_iterable(map(score_columns, scores)))
    return {column.name: column for column in columns if Use.IMPORTED in column.use}


def checked(where: str, row: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Return the values of known columns in their types, and `created_at` as a time; a column that is missing is None.

    A FormatError begins with `where`.
    """
    values: dict[str, Any] = dict.fromkeys(_FIXED)
    for name, value in row.items():
        if value is not None and name in known and name != CONTEXTS.name:
            values[name] = _READ[known[name].kind](where, known[name], value)
    if missing := next((name for name in _NEEDED if values[name] is None), None):
        raise FormatError(f"{where}: {missing} is empty")
    _check_state(where, values, known)
    if CONTEXTS.name in row:
        values[CONTEXTS.name] = _contexts(where, row[CONTEXTS.name])
    return values


def _text(where: str, column: Column, value: Any) -> str:
    name = column.name
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


def _integer(where: str, column: Column, value: Any) -> int:
    # Other tools turn whole numbers into decimals where a column has gaps.
    number = _finite(value)
    if number is None or not number.is_integer() or not 0 <= number < _LARGEST:
        raise FormatError(f"{where}: {column.name} is {_shown(value)}: expected a whole number, 0 or more")
    return value if isinstance(value, int) else int(number)


def _finite(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _number(where: str, column: Column, value: Any) -> float:
    number, low, high = _finite(value), column.low, column.high
    if number is None or not low - 1e-9 <= number <= high + 1e-9:
        between = f" from {low:g} to {high:g}" if math.isfinite(low) or math.isfinite(high) else ""
        raise FormatError(f"{where}: {column.name} is {_shown(value)}: expected a finite number{between}, or nothing")
    return number


def _moment(where: str, column: Column, value: Any) -> datetime:
    """Read a time, which is a datetime in Parquet and a text in other formats and in older files."""
    if isinstance(value, datetime):
        return in_utc(value)
    try:
        return in_utc(datetime.fromisoformat(_text(where, column, value)))
    except ValueError:
        raise FormatError(
            f"{where}: {column.name} is {_shown(value)}: expected a time such as 2026-01-02T03:04:05+00:00"
        ) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_READ: dict[Kind, Callable[[str, Column, Any], Any]] = {
    Kind.TEXT: _text,
    Kind.COUNT: _integer,
    Kind.NUMBER: _number,
    Kind.TIME: _moment,
}
_OF_A_LABEL = ("value", "low", "high")  # parts of a score


def _check_state(where: str, values: dict[str, Any], known: Known) -> None:
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
    for name, value in values.items():
        column = known[name]
        if value is None or (column.score is None and name != "explainer"):
            continue
        if not is_labeled and (column.part in _OF_A_LABEL or name == "explainer"):
            raise FormatError(f"{where}: a {state} feature has a value of {name}")
        if column.part == "reason" and values.get(score_columns(str(column.score))[0].name) is not None:
            raise FormatError(f"{where}: a value of {column.score}, and a reason why there is none")


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
