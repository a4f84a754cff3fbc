from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from labeler.store.base.coalesce import WriteCoalescer
from tests.waiting import HANGS


def test_calls_that_meet_are_one_and_each_gets_its_own() -> None:
    groups: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        groups.append(list(items))
        begun.set()
        go_on.wait(HANGS)
        return [10 * i for i in items]

    async def run() -> list[int]:
        together = WriteCoalescer(work, at_once=4)
        first = asyncio.ensure_future(together(0))
        await asyncio.to_thread(begun.wait, HANGS)
        others = [asyncio.ensure_future(together(i)) for i in range(1, 7)]
        await asyncio.sleep(0.01)
        go_on.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(run()) == [0, 10, 20, 30, 40, 50, 60]
    assert groups == [[0], [1, 2, 3, 4], [5, 6]]


def test_an_error_is_everybody_s_in_its_group_and_nobody_s_after() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if -1 in items:
            raise OSError("disk full")
        return list(items)

    async def run() -> None:
        together = WriteCoalescer(work, at_once=4)
        with pytest.raises(OSError, match="disk full"):
            await together(-1)
        assert await together(3) == 3

    asyncio.run(run())
