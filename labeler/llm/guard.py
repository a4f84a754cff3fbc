"""A last look before each request: whether what it is bought for is still ours to buy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Guard = Callable[[], Awaitable[None]]

_guard: ContextVar[Guard | None] = ContextVar("labeler_llm_guard", default=None)


@contextmanager
def guarded_by(guard: Guard) -> Iterator[None]:
    """Every task that is begun in here awaits `guard` before each of its requests; one that raises sends none."""
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


async def ask_guard() -> None:
    """Raises what the guard raises."""
    if (guard := _guard.get()) is not None:
        await guard()
