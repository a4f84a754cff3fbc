"""Templates as answers: one environment, the same headers on every page, errors as pages for those who look at pages."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool

from api.access import COOKIE
from api.pages import words
from api.problems import MEDIA_TYPE, RequestProblem
from labeler import __version__

router = APIRouter()
_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors {}"
)


def render(request: Request, template: str, status: int = 200, *, embedded: bool = False, **values: Any) -> Response:
    """The page. What the templates get beside `values`: `path`, `signed_in`, `embedded`, and the filters of words.py."""
    page = _environment().get_template(template)
    text = page.render(
        path=request.url.path,
        signed_in=COOKIE in request.cookies,
        embedded=embedded,
        version=__version__,
        **values,
    )
    headers = {
        "Content-Security-Policy": _POLICY.format("*" if embedded else "'self'"),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Cache-Control": "private, no-cache",
        # Under one address a page and a part of it: a browser that goes back must not show the part.
        "Vary": "HX-Request, HX-History-Restore-Request",
    }
    if not embedded:
        headers["X-Frame-Options"] = "SAMEORIGIN"
    return HTMLResponse(text, status, headers)


def is_partial(request: Request) -> bool:
    """Say whether htmx asks for a part of a page. When the reader goes back, it asks for the whole page."""
    is_back = request.headers.get("hx-history-restore-request") == "true"
    return request.headers.get("hx-request") == "true" and not is_back


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= words.FILTERS
    environment.globals |= {"asset": _asset, "now": lambda: datetime.now(UTC), "url": url}
    return environment


def url(path: str, **query: Any) -> str:
    """A path with a query; what is None or empty is left out."""
    kept = {name: value for name, value in query.items() if value not in (None, "")}
    return quote(path) + ("?" + urlencode(kept) if kept else "")


# Static files


@lru_cache(maxsize=1)
def _static() -> dict[str, tuple[bytes, str]]:
    """(content, version) by name."""
    files = {path.name: path.read_bytes() for path in sorted((_HERE / "static").iterdir()) if path.is_file()}
    return {name: (content, hashlib.sha256(content).hexdigest()[:12]) for name, content in files.items()}


def _asset(name: str) -> str:
    return f"/static/{name}?v={_static()[name][1]}"


@router.get("/static/{name}")
def static(name: str, v: str = "") -> Response:
    if name not in _static():
        raise RequestProblem(404, "there is no such file")
    content, version = _static()[name]
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    caching = "public, max-age=31536000, immutable" if v == version else "no-cache"
    return Response(content, headers={"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}, media_type=kind)


# Errors

Handler = Callable[[Request, Exception], Response | Awaitable[Response]]


def show_errors_as_pages(app: FastAPI) -> None:
    """Let routes that answer with problem+json answer with a page to readers who want one."""

    def shown(handler: Handler) -> Handler:
        async def handle(request: Request, error: Exception) -> Response:
            answer = handler(request, error)
            return await as_page(request, answer if isinstance(answer, Response) else await answer)

        return handle

    for kind, handler in list(app.exception_handlers.items()):
        app.exception_handlers[kind] = shown(handler)


async def as_page(request: Request, answer: Response) -> Response:
    """Turn a problem into a page for a reader who wants one; return any other answer as it is."""
    if answer.media_type != MEDIA_TYPE or not _wants_page(request):
        return answer
    page = await run_in_threadpool(
        render,
        request,
        "problem.html.j2",
        answer.status_code,
        problem=json.loads(bytes(answer.body)),
        next=str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""),
    )
    for name in ("retry-after", "www-authenticate"):
        if name in answer.headers:
            page.headers[name] = answer.headers[name]
    return page


def _wants_page(request: Request) -> bool:
    is_service = request.url.path.startswith(("/v1/", "/static/", "/healthz", "/readyz", "/metrics"))
    is_htmx = request.headers.get("hx-request") == "true"
    return not is_service and ("text/html" in request.headers.get("accept", "") or is_htmx)
