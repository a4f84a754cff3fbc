"""The end of a run that a person stops.

Results that have arrived are saved, and the process ends whether or not the database answers.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from labeler.errors import StorageError
from labeler.store import Store
from labeler.store.base.ledger import SqlLedger

if TYPE_CHECKING:
    from labeler.llm.client import OpenAILLM

GRACE = 8.0  # seconds to save results, and as many for the replies in flight
_LAST = 2 * GRACE + 4.0
_INTERRUPTED = 130
_SHOW_CURSOR = "\x1b[?25h"


class Ending:
    """Runs the work of a command in an event loop. Ctrl-C ends it within 20 s, and names what could not be saved."""

    def __init__(self, store: Store, ledger: SqlLedger) -> None:
        self._store, self._ledger = store, ledger
        # There is no other way to end a thread that waits for a hanging database.
        self._last = threading.Timer(_LAST, self._end)
        self._last.daemon = True

    def run(
        self, work: Callable[[OpenAILLM | None], Coroutine[Any, Any, None]], client: Callable[[], OpenAILLM | None]
    ) -> None:
        """Make the client in the loop, and do the work with it. Raises their errors, and KeyboardInterrupt."""
        try:
            asyncio.run(self._until_stopped(work, client))
        finally:
            self._last.cancel()

    async def _until_stopped(
        self, work: Callable[[OpenAILLM | None], Coroutine[Any, Any, None]], client: Callable[[], OpenAILLM | None]
    ) -> None:
        llm = client()
        working = asyncio.ensure_future(work(llm))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            await self._stop(working, llm)
            raise
        except BaseException:
            await self._hang_up(llm)
            raise
        await self._hang_up(llm)

    async def _hang_up(self, llm: OpenAILLM | None) -> None:
        if llm is not None:
            await llm.aclose()
        if n := self._ledger.n_unkept:
            _say(_lost(n))

    async def _stop(self, working: asyncio.Future[None], llm: OpenAILLM | None) -> None:
        self._last.start()
        self._store.database.hurry = lambda: True
        _say("stopping: what has arrived is being saved; Ctrl-C once more ends at once")
        working.cancel()
        await asyncio.wait({working}, timeout=GRACE)
        if llm is not None:
            await asyncio.wait({asyncio.ensure_future(llm.landed())}, timeout=GRACE)
            # Hung up also where a reply is still out: what is left open is reported in words that help no one.
            await asyncio.wait({asyncio.ensure_future(llm.sender.aclose())}, timeout=1.0)
        error = working.exception() if working.done() and not working.cancelled() else None
        if isinstance(error, StorageError):
            _say(f"error: {error}")
        if n := self._ledger.n_unkept:
            _say(_lost(n))

    def _end(self) -> None:
        cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
        _say(f"{cursor}stopped: the database gave no answer in time, and {_lost(self._ledger.n_unkept)}")
        os._exit(_INTERRUPTED)


def _lost(n: int) -> str:
    if not n:
        return "no reply that had arrived is lost"
    return f"{n} replies that had arrived could not be kept: they will be asked for again"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
