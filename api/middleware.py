"""Middleware for every request: an id, a log line, limits on its head, and a host name check."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import Metrics
from api.problems import problem
from labeler.logs import request_id

log = logging.getLogger("api.requests")

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SAFE = ("GET", "HEAD", "OPTIONS")


class RequestLog:
    """Outermost: names each request, counts and logs it, and answers 500 where all else failed."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, shown: Callable[[Request, Response], Awaitable[Response]]
    ) -> None:
        self.app, self.metrics, self.shown = app, metrics, shown  # `shown`: a problem as who asks wants to see it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        named = given if _ID.fullmatch(given) else secrets.token_hex(8)
        token, began, status = request_id.set(named), time.perf_counter(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = named
            await send(message)

        try:
            await self.app(scope, receive, tell)
        except Exception:
            log.exception("unexpected error")
            if status == 0:
                answer = problem(500, f"something went wrong here; the log has it as request {named}")
                await (await self.shown(Request(scope), answer))(scope, receive, tell)
        finally:
            self._record(scope, status, time.perf_counter() - began)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The template of the route and not the path: few values for the metrics, and no secrets.
        route = _route_of(scope)
        self.metrics.request(scope["method"], route, status, seconds)
        log.info(
            "request",
            extra={
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1e3, 1),
                "key": scope.get("state", {}).get("caller", "-"),
            },
        )


def _route_of(scope: Scope) -> str:
    """The template of the route with its prefix, which some versions of FastAPI leave out."""
    template: str | None = getattr(scope.get("route"), "path", None)
    if template is None:
        return "none"
    n_before = scope["path"].count("/") - template.count("/")
    return "/".join(scope["path"].split("/")[: n_before + 1]) + template


class HeadGuard:
    """Refuses addresses and headers that are longer than any of ours, before anything takes them apart."""

    def __init__(self, app: ASGIApp, max_address: int = 16 << 10, max_headers: int = 32 << 10) -> None:
        self.app, self.max_address, self.max_headers = app, max_address, max_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and len(scope["raw_path"] or b"") + len(scope["query_string"]) > self.max_address:
            await problem(414, f"the address is longer than {self.max_address:,} bytes")(scope, receive, send)
        elif scope["type"] == "http" and sum(len(n) + len(v) for n, v in scope["headers"]) > self.max_headers:
            await problem(431, f"the headers are longer than {self.max_headers:,} bytes")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class NameGuard:
    """Refuses requests under a foreign host name: a page whose name points here must not act for its visitor."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = {*LOOPBACK_NAMES, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            await problem(403, refusal)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        if not self._is_ours("//" + headers.get("host", "")):
            return (
                "this service is not known under the name in the Host header; its operator can add it to LABELER_HOSTS"
            )
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in _SAFE and not self._is_ours(origin):
            return "a page of another site may not change anything here"
        return None

    def _is_ours(self, url: str) -> bool:
        try:
            return "*" in self.hosts or (urlsplit(url).hostname or "") in self.hosts
        except ValueError:
            return False
