"""How long work tells where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # what, done, total; a total of 0 is unknown


def no_progress(_what: str, _done: int, _total: int) -> None:
    pass


@contextmanager
def step(on_progress: Progress, what: str) -> Iterator[None]:
    """Tell of work that has no parts to count, from its beginning to its end."""
    on_progress(what, 0, 0)
    yield
    on_progress(what, 1, 1)
