"""Let many features flow through one coroutine, a few at a time; results come as they are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeVar

Read = TypeVar("Read")
Result = TypeVar("Result")


async def read_then(
    work: Callable[[Read], Coroutine[Any, Any, Result]],
    read: Callable[[int], Read],
    features: Iterable[int] | AsyncIterable[int],
    at_once: int,
    *,
    in_thread: bool,
) -> AsyncGenerator[Result, None]:
    """Yield the result of `work` on what `read` returns for each feature; see `as_ready`.

    `in_thread` is for work that asks an LLM: its replies arrive while evidence is read. What takes 16 ms in the event
    loop is 16 ms more in which a reply that was paid for is not in the ledger.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="evidence") if in_thread else None

    async def one(feature_index: int) -> Result:
        if reader is None:
            return await work(read(feature_index))
        return await work(await asyncio.get_running_loop().run_in_executor(reader, read, feature_index))

    try:
        async with aclosing(as_ready(features, one, at_once)) as results:
            async for result in results:
                yield result
    finally:
        if reader is not None:
            reader.shutdown(wait=False, cancel_futures=True)


async def as_ready(
    features: Iterable[int] | AsyncIterable[int], work: Callable[[int], Coroutine[Any, Any, Result]], at_once: int
) -> AsyncGenerator[Result, None]:
    """Yield what `work` returns for each feature, in any order, with `at_once` of them in flight.

    No feature is taken from `features` before there is room for it; where that makes us wait, results come meanwhile.
    What one of them raises ends the flow, after the results that were ready.
    """
    todo = _taken(features)
    running: set[asyncio.Task[Result]] = set()
    taking: asyncio.Task[int | None] | None = None
    is_last = False
    try:
        while True:
            if taking is None and not is_last and len(running) < at_once:
                taking = asyncio.ensure_future(_next(todo))
            waited: set[asyncio.Task[Any]] = running | ({taking} if taking is not None else set())
            if not waited:
                return
            done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            # Finished results are given before an error that came with them.
            for task in sorted(running & done, key=lambda t: (t.exception() is not None, t.get_name())):
                running.discard(task)
                yield task.result()
            if taking is not None and taking in done:
                feature, taking = taking.result(), None
                is_last = feature is None
                if feature is not None:
                    running.add(asyncio.ensure_future(work(feature)))
    finally:
        left: list[asyncio.Task[Any]] = [*running, *([] if taking is None else [taking])]
        for unfinished in left:
            unfinished.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _next(features: AsyncIterator[int]) -> int | None:
    return await anext(features, None)


async def _taken(features: Iterable[int] | AsyncIterable[int]) -> AsyncIterator[int]:
    if isinstance(features, AsyncIterable):
        async for feature in features:
            yield feature
    else:
        for feature in features:
            yield feature
