"""A last check before each request: the run still holds the feature that the request is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Guard = Callable[[], Awaitable[None]]

_guard: ContextVar[Guard | None] = ContextVar("labeler_llm_guard", default=None)


@contextmanager
def guarded_by(guard: Guard) -> Iterator[None]:
    """Let every task that begins in this block await `guard` before each request; if `guard` raises, nothing is sent."""
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


async def ask_guard() -> None:
    """Await the guard of this task, if it has one. Raises what the guard raises."""
    if (guard := _guard.get()) is not None:
        await guard()
