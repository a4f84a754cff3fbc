"""The values of one imported row, checked against what a label set can say: pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa

from labeler.errors import FormatError
from labeler.export.columns import COLUMNS, TOP_CONTEXTS
from labeler.records import State
from labeler.store.tables import in_utc

_LARGEST = 2**62
_NEEDED = ("subject", "hookpoint", "sae", "feature_index", "state", "prompt_version", "recipe_hash", "requests", "tokens_in",
           "tokens_out", "created_at")  # fmt: skip
_BETWEEN = {
    "score": (-1.0, 1.0), "score_low": (-1.0, 1.0), "score_high": (-1.0, 1.0), "score_weighted": (-1.0, 1.0),
    "baseline_token_lookup": (-1.0, 1.0), "score_null_p": (0.0, 1.0), "detection": (0.0, 1.0), "fuzzing": (0.0, 1.0),
    "density": (0.0, 1.0), "max_activation": (0.0, math.inf), "cost_usd": (0.0, math.inf),
}  # fmt: skip
_STATES = frozenset(state.value for state in State if state is not State.PENDING)
_OF_A_LABEL = ("explainer", "score", "score_low", "score_high", "score_weighted", "detection", "fuzzing")


def checked(where: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with the types of COLUMNS and `created_at` as a time. Raises FormatError that begins with `where`."""
    values = {name: _value(where, name, row[name]) for name in COLUMNS}
    if missing := next((name for name in _NEEDED if values[name] is None), None):
        raise FormatError(f"{where}: {missing} is empty")
    _check_state(where, values)
    values["created_at"] = _time(where, values["created_at"])
    if TOP_CONTEXTS in row:
        values[TOP_CONTEXTS] = _contexts(where, row[TOP_CONTEXTS])
    return values


def _value(where: str, name: str, value: Any) -> Any:
    if value is None:
        return None
    return _READ[name](where, name, value)


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError(f"{where}: {name} is {value!r}: expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{where}: {name} holds half of a surrogate pair, which is not text") from None
    if "\0" in value:
        raise FormatError(f"{where}: {name} holds a null character, which is not text")
    return value


def _integer(where: str, name: str, value: Any) -> int:
    # Other tools make decimals of whole numbers where a column has gaps.
    number = _number(where, name, value)
    if not number.is_integer() or not 0 <= number < _LARGEST:
        raise FormatError(f"{where}: {name} is {value!r}: expected a whole number, 0 or more")
    return value if isinstance(value, int) else int(number)


def _number(where: str, name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    low, high = _BETWEEN.get(name, (-math.inf, math.inf))
    if not math.isfinite(number) or not low - 1e-9 <= number <= high + 1e-9:
        between = f" from {low:g} to {high:g}" if name in _BETWEEN else ""
        raise FormatError(f"{where}: {name} is {value!r}: expected a finite number{between}, or nothing")
    return number


_READ: dict[str, Callable[[str, str, Any], Any]] = {
    name: _text if kind == pa.string() else _integer if kind == pa.int64() else _number
    for name, kind in COLUMNS.items()
}


def _check_state(where: str, values: dict[str, Any]) -> None:
    state = values["state"]
    if state not in _STATES:
        raise FormatError(f"{where}: state is {state!r}: expected one of {', '.join(sorted(_STATES))}")
    is_labeled = state == State.LABELED
    if is_labeled != (values["label"] is not None):
        raise FormatError(f"{where}: the state is {state} and label is {values['label']!r}: they do not go together")
    if not is_labeled and not values["reason"]:
        raise FormatError(f"{where}: a {state} feature has no reason")
    if not is_labeled and (has := next((name for name in _OF_A_LABEL if values[name] is not None), None)):
        raise FormatError(f"{where}: a {state} feature has a value of {has}")
    if values["score"] is not None and values["score_reason"] is not None:
        raise FormatError(f"{where}: a score, and a reason why there is none")


def _time(where: str, text: str) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise FormatError(
            f"{where}: created_at is {text!r}: expected a time such as 2026-01-02T03:04:05+00:00"
        ) from None


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
