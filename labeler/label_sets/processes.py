"""Labeling without an LLM, on all cores: blocks of features in separate processes.

A look-up label is arithmetic, and one process does one feature at a time. With an LLM the waiting dominates, and one
event loop is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from labeler.evidence.store import EvidenceFolder
from labeler.pipeline import label_features
from labeler.recipe import Recipe
from labeler.records import LabeledFeature
from labeler.steps.null import NullLabels

Take = Callable[[int], Awaitable[Sequence[int]]]

_BLOCK = 16
# Each process needs as long as a hundred features take to learn the null, and a second to start.
_WORTH_A_PROCESS = 200


def processes_worth(n_features: int, n_cores: int) -> int:
    return max(1, min(n_cores, n_features // _WORTH_A_PROCESS))


async def label_features_in_processes(
    folder: Path, take: Take, recipe: Recipe, n_processes: int
) -> AsyncGenerator[LabeledFeature, None]:
    """Yield the results of `label_features` without an LLM, in any order.

    `take` returns up to so many features, and none at the end.
    """
    pool = ProcessPoolExecutor(n_processes, mp_context=get_context("spawn"))
    running: set[asyncio.Future[list[LabeledFeature]]] = set()
    taking: asyncio.Future[Sequence[int]] | None = None
    is_last = False
    try:
        while True:
            if taking is None and not is_last and len(running) < 2 * n_processes:
                taking = asyncio.ensure_future(take(_BLOCK))
            waited: set[asyncio.Future[Any]] = {*running, *([] if taking is None else [taking])}
            if not waited:
                return
            done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            for future in running & done:
                running.discard(future)
                for result in future.result():
                    yield result
            if taking is not None and taking in done:
                block, taking = taking.result(), None
                is_last = not block
                if block:
                    running.add(_submit(pool, folder, block, recipe))
    finally:
        if taking is not None:
            taking.cancel()
        pool.shutdown(wait=False, cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, folder: Path, features: Sequence[int], recipe: Recipe
) -> asyncio.Future[list[LabeledFeature]]:
    future: Future[list[LabeledFeature]] = pool.submit(_label_block, folder, tuple(features), recipe)
    return asyncio.wrap_future(future)


def _label_block(folder: Path, features: Sequence[int], recipe: Recipe) -> list[LabeledFeature]:
    opened, null = _opened(folder, recipe)

    async def label() -> list[LabeledFeature]:
        return [result async for result in label_features(opened, features, recipe, None, null=null)]

    return asyncio.run(label())


@lru_cache(maxsize=1)
def _opened(folder: Path, recipe: Recipe) -> tuple[EvidenceFolder, NullLabels]:
    opened = EvidenceFolder(folder)
    return opened, NullLabels(opened, recipe)
