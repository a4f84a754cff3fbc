"""Labelling that asks nobody, on all cores: blocks of features in processes of their own.

A look-up label is arithmetic, and one process does one feature at a time. With an LLM the waiting dominates, and one
event loop is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from labeler.evidence.store import EvidenceFolder
from labeler.pipeline import NullLabels, label_features
from labeler.recipe import Recipe
from labeler.records import LabeledFeature

_BLOCK = 16
# Learning the null takes each process as long as a hundred features, and starting it a second.
_WORTH_A_PROCESS = 200


def processes_worth(n_features: int, n_cores: int) -> int:
    return max(1, min(n_cores, n_features // _WORTH_A_PROCESS))


async def label_features_in_processes(
    folder: Path, features: Sequence[int], recipe: Recipe, n_processes: int
) -> AsyncIterator[LabeledFeature]:
    """What `label_features` gives without an LLM, in any order."""
    blocks = (features[low : low + _BLOCK] for low in range(0, len(features), _BLOCK))
    pool = ProcessPoolExecutor(n_processes, mp_context=get_context("spawn"))
    try:
        running = {_submit(pool, folder, block, recipe) for block in islice(blocks, 2 * n_processes)}
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                running |= {_submit(pool, folder, block, recipe) for block in islice(blocks, 1)}
                for result in future.result():
                    yield result
    finally:
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
