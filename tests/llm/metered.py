"""Run something that asks an LLM, and say what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from labeler.llm.meter import Metered
from labeler.records import Usage

T = TypeVar("T")


async def counted(llm: Any, ask: Callable[[Metered], Coroutine[Any, Any, T]]) -> tuple[T, Usage]:
    """Return what `ask` returns, and the usage of the LLM that it was given; `llm` may answer one kind of prompt."""
    metered = Metered(llm)
    return await ask(metered), metered.spent


def run_counted(llm: Any, ask: Callable[[Metered], Coroutine[Any, Any, T]]) -> tuple[T, Usage]:
    return asyncio.run(counted(llm, ask))
