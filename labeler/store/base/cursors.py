"""Cursors: where the next page of a query begins. Clients cannot read them; each one that comes back is checked."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from labeler.errors import InputError

_LONGEST = 500
_LARGEST = 1e300  # the largest number in a position


def make_cursor(query: object, position: Sequence[int | float]) -> str:
    """Make the cursor of this position in this query."""
    text = json.dumps([_digest(query), *position], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(query: object, cursor: str | None, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """Return the position of a cursor. Raises InputError for a damaged cursor and for one of another query.

    A cursor is not signed: it holds positions only, and a forged one reads nothing that its query would not show.
    """
    if cursor is None:
        return None
    digest, *position = _decode(cursor)
    if digest != _digest(query):
        raise InputError(
            "cursor: it belongs to another query; ask with the same filters and order, or begin without it"
        )
    if len(position) != len(kinds) or not all(_is(v, kind) for v, kind in zip(position, kinds, strict=True)):
        raise InputError("cursor: damaged; use it as it was given, or begin without it")
    return tuple(kind(value) for value, kind in zip(position, kinds, strict=True))


def _decode(cursor: str) -> list[Any]:
    try:
        if len(cursor) > _LONGEST:
            raise ValueError
        values = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not values:
        raise InputError("cursor: damaged; use it as it was given, or begin without it")
    return values


def _is(value: Any, kind: type) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value < 1 << 31
    return type(value) in (int, float) and abs(value) < _LARGEST  # an integer may be too large for a float


def _digest(query: object) -> str:
    return hashlib.sha256(repr(query).encode()).hexdigest()[:12]
