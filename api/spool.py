"""Exports in temporary files: the database writes at its pace, and the client reads at its own.

So a slow client holds no database, a broken download goes on where it broke, and what is sent is of one moment.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from api.problems import RequestProblem

_MOST = 6  # files that are kept
_KEPT_SECONDS = 3600.0  # since one was last asked for
_PIECE = 1 << 18
_LOOK = 0.02  # seconds between two looks at how far it is
_AT_ONCE = 2  # that are written
_MOST_UNFINISHED = 32  # that are written or wait for it: each has a thread
_MOST_UNFINISHED_A_KEY = 8

log = logging.getLogger(__name__)


class Spooled:
    """A file that may still be growing."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self.key = path, key
        self.size, self.is_finished = 0, False
        self.error: Exception | None = None  # what broke it off
        self.used_at = time.monotonic()

    def fill(self, pieces: Callable[[], Iterator[bytes]]) -> None:
        try:
            with self._path.open("wb", buffering=0) as file:
                for piece in pieces():
                    file.write(piece)
                    self.size += len(piece)
        except Exception as error:
            self.error = error
            log.warning("an export broke off", extra={"error": f"{type(error).__name__}: {error}"})
        self.is_finished = True

    async def wait_for(self, n_bytes: float) -> int:
        """Wait until there are more than `n_bytes`, or all; returns how many there are. Raises what broke it off."""
        while not self.is_finished and self.size <= n_bytes:
            await asyncio.sleep(_LOOK)
        if self.error is not None:
            raise self.error
        return self.size

    async def read(self, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes in [start, end), or all behind `start`, as they come."""
        with self._path.open("rb") as file:
            file.seek(start)
            while end is None or start < end:
                n = min(await self.wait_for(start), start + _PIECE, start + _PIECE if end is None else end)
                if n <= start:
                    return
                yield await run_in_threadpool(file.read, n - start)
                start = n

    def delete(self) -> None:
        self._path.unlink(missing_ok=True)  # those who read it go on reading


class Spool:
    """The exports that were asked for last."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, Spooled] = {}
        self._lock, self._turn = threading.Lock(), threading.Semaphore(_AT_ONCE)

    def get(self, name: str, pieces: Callable[[], Iterator[bytes]], key: str) -> Spooled:
        """Return the file of this name. A missing one is begun for this key: `pieces` runs in its own thread.

        Raises RequestProblem (429) where too many wait already.
        """
        with self._lock:
            found = self._files.get(name)
            if found is None or found.error is not None:
                self._make_room()
                self._check_turns(key)
                self._folder = self._folder or tempfile.TemporaryDirectory(prefix="labeler-exports-")
                found = self._files[name] = Spooled(Path(self._folder.name) / name, key)
                threading.Thread(target=self._fill, args=(found, pieces), name=f"export {name}", daemon=True).start()
            found.used_at = time.monotonic()
            return found

    def _check_turns(self, key: str) -> None:
        unfinished = [file.key for file in self._files.values() if not file.is_finished]
        for n, most in ((unfinished.count(key), _MOST_UNFINISHED_A_KEY), (len(unfinished), _MOST_UNFINISHED)):
            if n >= most:
                raise RequestProblem(429, f"{n} exports wait already: ask again in a minute", {"Retry-After": "60"})

    def _fill(self, file: Spooled, pieces: Callable[[], Iterator[bytes]]) -> None:
        with self._turn:
            file.fill(pieces)

    def _make_room(self) -> None:
        finished = sorted((f.used_at, name) for name, f in self._files.items() if f.is_finished)
        old = time.monotonic() - _KEPT_SECONDS
        n_too_many = len(self._files) + 1 - _MOST
        for place, (used_at, name) in enumerate(finished):
            if place < n_too_many or used_at < old:
                self._files.pop(name).delete()

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
