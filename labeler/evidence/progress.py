"""Report the progress of long work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]  # what, done, total; a total of 0 is unknown


def no_progress(_what: str, _done: int, _total: int) -> None:
    pass


@contextmanager
def step(on_progress: Progress, what: str) -> Iterator[None]:
    """Report work that has no parts to count: once at its beginning and once at its end."""
    on_progress(what, 0, 0)
    yield
    on_progress(what, 1, 1)
