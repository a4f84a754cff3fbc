"""How long work tells where it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # what, done, total


def no_progress(_what: str, _done: int, _total: int) -> None:
    pass
