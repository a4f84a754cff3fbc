"""The HTTP server: uvicorn, with limits on what connections hold that never finish a request.

    connect ──► HEAD ──a whole head──► at work ──answered──► IDLE, or DRAIN while a body that nobody reads still comes
                 ▲                      │   ▲                  │
                 │          BODY, READER┘   └───a whole head───┘
    each state with a time is ended by it

No byte starts a time again, so that a byte now and then gains nothing. What is at work has no limit: an export or the
events of a job last as long as somebody reads them. Near the limit on connections, those that have waited longest for
something from their client are closed. Bodies have their time and their memory in api/bodies.py.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import logging
import math
import resource
import socket
import time
from enum import Enum, auto
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST_CONNECTIONS = 1024
_FILES_WANTED = 8192
_FILES_KEPT = 512  # for the database, the arrays of open evidence folders, and exports
# asyncio accepts so many in one go, each with a file, before anything here sees the first of them.
_ACCEPTED_AT_ONCE = 16
_QUEUED_BY_KERNEL = 1024
_MOST_DRAINED = 256 << 10  # bytes of a body that no one reads
_READ_AT_ONCE = 64 << 10  # of one connection, before the others have their turn
_STALLED_SECONDS = 5.0  # without a reader, after which an answer is given up where room is needed
_STOP_SECONDS = 8.0  # for what is at work when the service ends
_LOG_SECONDS = 60.0
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger("api.server")


class Wait(Enum):
    """The kinds of waiting of a connection. Each waits for something that the client must do."""

    HEAD = auto()  # of its first request
    IDLE = auto()  # for the next request, until its head is whole
    BODY = auto()  # the rest of it, which BodyGuard reads and times
    READER = auto()  # an answer that is not taken
    DRAIN = auto()  # the rest of a body after its answer, so that the client gets as far as to read that


SECONDS = {Wait.HEAD: 10.0, Wait.IDLE: 15.0, Wait.BODY: math.inf, Wait.READER: 60.0, Wait.DRAIN: 5.0}


class GuardedProtocol(H11Protocol):
    """One connection, which is closed when its wait for the client takes too long."""

    config: ServerConfig
    waits_for: Wait | None = None
    waits_since = 0.0  # by the clock of the loop
    _timer: asyncio.TimerHandle | None = None
    _n_drained = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = _READ_AT_ONCE  # type: ignore[attr-defined]  # asyncio's own is 256 KiB
        self._wait(Wait.HEAD)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()
        self._n_drained = self._n_drained + len(data) if self.waits_for is Wait.DRAIN else 0
        if self._n_drained > _MOST_DRAINED:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        self.cycle.body = bytearray()  # bytes that no one has read
        self._wait(None)
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look()

    def _look(self) -> None:
        """Begin to wait for what is missing now, unless that is what it waits for already."""
        now = self._missing()
        if now is not self.waits_for and not (self.waits_for is Wait.HEAD and now is Wait.IDLE):
            self._wait(now)

    def _missing(self) -> Wait | None:
        if self.cycle is None or self.cycle.response_complete:
            if self.transport.get_write_buffer_size():
                return Wait.READER
            return Wait.DRAIN if self.conn.their_state is h11.SEND_BODY else Wait.IDLE
        if self.flow.write_paused:
            return Wait.READER
        return Wait.BODY if self.cycle.more_body else None

    def _wait(self, what: Wait | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.waits_for, self.waits_since = what, self.loop.time()
        if what is not None and SECONDS[what] < math.inf:
            # Not `close`, which would wait until a client that reads nothing has read the rest.
            self._timer = self.loop.call_later(SECONDS[what], self.transport.abort)

    def _make_room(self) -> None:
        """Close others, or this newcomer where all others are at work."""
        most = self.config.most_connections
        if len(self.connections) <= most:
            return
        here: list[GuardedProtocol] = [c for c in self.connections if not c.transport.is_closing()]  # type: ignore[misc]
        if len(here) <= most:
            return
        log.warning("too many connections: those that have waited longest for their client are closed")
        idle = [c for c in here if c is not self and c.can_be_closed()]
        # Several at once: each time all of them are looked through.
        for connection in heapq.nsmallest(1 + most // 16, idle, key=GuardedProtocol.worth) or [self]:
            connection.transport.abort()

    def can_be_closed(self) -> bool:
        is_taken = self.waits_for is Wait.READER and self.loop.time() - self.waits_since < _STALLED_SECONDS
        return self.waits_for is not None and not is_taken

    def worth(self) -> tuple[bool, float]:
        """Less for what is closed first: an answer that was begun stays longest."""
        return self.waits_for is Wait.READER, self.waits_since


class ServerConfig(uvicorn.Config):
    """Settings of the server. They raise the process's limit on open files as far as it may."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        super().__init__(
            app,
            host=host,
            port=port,
            http=GuardedProtocol,
            ws="none",
            loop="asyncio",
            backlog=_ACCEPTED_AT_ONCE,
            timeout_keep_alive=round(SECONDS[Wait.IDLE]),
            timeout_graceful_shutdown=round(_STOP_SECONDS),
            # Our own log has a line for each request, with its id. Forwarded addresses are not believed: keys say who asks.
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
        )
        self.most_connections = n_connections(raise_file_limit())


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for logger in (log, logging.getLogger("uvicorn.error")):
            logger.filters = [known for known in logger.filters if not isinstance(known, OnceAMinute)]
            logger.addFilter(OnceAMinute())
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
        await super().startup(sockets)
        for listening in (each for server in self.servers for each in server.sockets):
            # In the kernel more may wait than are accepted at once.
            with socket.fromfd(listening.fileno(), listening.family, listening.type) as same:
                same.listen(_QUEUED_BY_KERNEL)


def serve(app: ASGIApp, host: str, port: int) -> None:
    Server(ServerConfig(app, host, port)).run()


def raise_file_limit() -> int:
    """Raise the limit on open files as far as possible, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(_FILES_WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _FILES_WANTED if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # some systems allow less than they say
        return soft
    return wanted


def n_connections(n_files: int) -> int:
    """The most connections of a process that may open so many files."""
    return min(_MOST_CONNECTIONS, max(n_files - _FILES_KEPT, n_files // 2))


class OnceAMinute(logging.Filter):
    """Lets the same warning pass at once, and then at most once a minute, with how often it was due.

    Anyone who can connect can cause these warnings, without a key. Internal errors, with tracebacks, always pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        passed_at, n = self._seen.get(str(record.msg), (-math.inf, 0))
        passes = time.monotonic() - passed_at >= _LOG_SECONDS
        self._seen[str(record.msg)] = (time.monotonic(), 0) if passes else (passed_at, n + 1)
        if passes and n:
            record.more_since = n
        return passes


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _OUT_OF_FILES:
        # asyncio says so for each of a queue of connections, each time with a traceback, and tries again a second later.
        log.warning("no new connection can be accepted: too many open files", extra={"error": error.strerror})
    else:
        loop.default_exception_handler(context)
