"""Answers that last: how many of them there are at one time, in all and for each key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.problems import RequestProblem


class Seats:
    """A limited number of seats. Only the event loop takes and returns them, so that counts are exact."""

    def __init__(self, what: str, most: int, most_a_key: int) -> None:
        self._what, self._most, self._most_a_key = what, most, most_a_key
        self._taken: Counter[str] = Counter()

    @property
    def n_taken(self) -> int:
        return self._taken.total()

    @contextmanager
    def taken(self, key: str) -> Iterator[None]:
        """Raises RequestProblem (429) where none is left."""
        if self._taken[key] >= self._most_a_key:
            raise RequestProblem(429, f"{self._most_a_key} {self._what} are open with this key", {"Retry-After": "10"})
        if self.n_taken >= self._most:
            raise RequestProblem(429, f"{self._most} {self._what} are open already", {"Retry-After": "10"})
        self._taken[key] += 1
        try:
            yield
        finally:
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]


class SeatedResponse(StreamingResponse):
    """A stream that holds a seat from its first byte to its last, or until its reader is gone."""

    def __init__(self, content: Any, seats: Seats, key: str, **more: Any) -> None:
        super().__init__(content, **more)
        self._seats, self._key = seats, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._seats.taken(self._key):
            await super().__call__(scope, receive, send)
