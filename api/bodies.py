"""Bodies of requests, read only from known senders. Their time, memory and depth are bounded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import numpy as np
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import problem

MOST_BYTES = 4 << 20
SECONDS = 60.0  # for a whole body, however often a part of it comes
_MOST_HELD = 32 << 20  # bytes of all bodies that are here at one time
_SAFE = ("GET", "HEAD", "OPTIONS")


class BodyGuard:
    """Reads bodies for the application, and answers in its place where one is unwanted, late, too long or too deep."""

    def __init__(
        self,
        app: ASGIApp,
        refusal: Callable[[Request], Awaitable[Response | None]],
        open_paths: Mapping[str, int],
        max_depth: int = 32,
    ) -> None:
        self.app, self.refusal, self.open_paths, self.max_depth = app, refusal, open_paths, max_depth
        self._bodies: dict[_Body, None] = {}  # that are here, oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _SAFE:
            await self.app(scope, receive, send)
            return
        most = self.open_paths.get(scope["path"])
        refusal = None if most is not None else await self.refusal(Request(scope))
        if refusal is not None:
            # The connection stays open, so that the client can read this; the server reads the rest and drops it.
            await refusal(scope, receive, send)
            return
        async with self._body(most or MOST_BYTES) as body:
            answer = await self._read(body, Headers(scope=scope), receive)
            if answer is not None:
                await answer(scope, receive, send)
            else:
                await self.app(scope, _Replay(body.taken(), receive), send)

    @asynccontextmanager
    async def _body(self, most: int) -> AsyncIterator[_Body]:
        body = _Body(most)
        self._bodies[body] = None
        try:
            yield body
        finally:
            self._bodies.pop(body, None)

    async def _read(self, body: _Body, headers: Headers, receive: Receive) -> Response | None:
        """Fill the body. Returns the answer for one that cannot be taken."""
        length = headers.get("content-length", "0")
        too_long = problem(413, f"the body is longer than {body.most:,} bytes")
        if length.isdecimal() and (len(length) > 10 or int(length) > body.most):
            return too_long
        try:
            async with asyncio.timeout(SECONDS) as body.patience:
                async for piece in _pieces(receive):
                    body.add(piece)
                    if body.n > body.most:
                        return too_long
                    if not self._has_room_for(body):
                        return problem(503, "too many long requests at once; try again", {"Retry-After": "5"})
        except TimeoutError:
            return problem(408, "the body did not come in time; send it again", {"Retry-After": "5"})
        finally:
            body.patience = None
        if nests_deeper(body.content, self.max_depth):
            return problem(422, f"the body is nested deeper than {self.max_depth} levels")
        return None

    def _has_room_for(self, body: _Body) -> bool:
        """Make room for a body, by giving up the longest unfinished ones. Returns whether it fits."""
        n_held = sum(other.n for other in self._bodies)
        for other in list(self._bodies):
            if n_held <= _MOST_HELD:
                return True
            if other is not body and other.give_up():
                n_held -= other.n
                del self._bodies[other]
        return n_held <= _MOST_HELD


class _Body:
    def __init__(self, most: int) -> None:
        self.most, self.n, self.content = most, 0, bytearray()
        self.patience: asyncio.Timeout | None = None  # while it is read

    def add(self, piece: bytes) -> None:
        self.content += piece
        self.n += len(piece)

    def taken(self) -> bytes:
        content, self.content = bytes(self.content), bytearray()
        return content

    def give_up(self) -> bool:
        """Have its time run out now. Says whether it was still being read."""
        if self.patience is None or self.patience.expired():
            return False
        self.patience.reschedule(0.0)
        self.content = bytearray()
        return True


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


class _Replay:
    """A body that was read, given once more; then whatever else comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


# Possessive, and the closing quote may be missing: a string that does not end is read once, not again from each of its quotes.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_STEPS = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1


def nests_deeper(body: bytes | bytearray, most: int) -> bool:
    """Say whether brackets outside strings nest deeper than `most`. The text need not be valid JSON."""
    if body.count(b"[") + body.count(b"{") <= most:
        return False
    outside = np.frombuffer(_STRING.sub(b"", body), np.uint8)
    return int(_STEPS[outside].cumsum(dtype=np.int32).max(initial=0)) > most
