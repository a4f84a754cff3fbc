"""Merges calls that coincide: while one group is at work in its thread, the next one gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

_Group = list[tuple[Any, "asyncio.Future[Any]"]]


class WriteCoalescer:
    """Joins concurrent calls into one: `await together(item)` gives the result of `work([..., item, ...])` for the
    item.

    An error of `work` is raised to all callers of the group. No call waits for company: one that finds no group at work
    starts at once. A caller that is canceled leaves only when the work on its item has ended, so that this work is
    never half done.
    """

    def __init__(self, work: Callable[[Sequence[Any]], Sequence[Any]], at_once: int) -> None:
        self._work, self._at_once = work, at_once
        self._waiting: _Group = []
        self._under_way: asyncio.Future[Any] | None = None

    async def __call__(self, item: Any) -> Any:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((item, done))
        if self._under_way is None or self._under_way.get_loop() is not loop:
            self._start(loop)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        group, self._waiting = self._waiting[: self._at_once], self._waiting[self._at_once :]
        # Callbacks and no task: the end of a loop cancels tasks, but this work must be done.
        self._under_way = loop.run_in_executor(None, self._work, [item for item, _ in group])
        self._under_way.add_done_callback(lambda work: self._finish(group, work))

    def _finish(self, group: _Group, work: asyncio.Future[Any]) -> None:
        self._under_way = None
        if self._waiting:
            self._start(work.get_loop())
        error = work.exception()
        for i, (_, done) in enumerate(group):
            if error is None:
                done.set_result(work.result()[i])
            else:
                done.set_exception(error)
