"""Errors as answers: problem+json (RFC 9457), from the error tree of labeler.errors and from what a request does wrong."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from labeler.errors import LabelerError, StorageError
from labeler.logs import request_id
from labeler.wire import Problem

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20


class RequestProblem(Exception):  # noqa: N818 - it is the answer
    """A request that is refused before it reaches the store."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


def problem(
    status: int, detail: str, headers: dict[str, str] | None = None, errors: list[dict[str, Any]] | None = None
) -> Response:
    title = HTTPStatus(status).phrase
    kind = f"urn:labeler:problem:{title.lower().replace(' ', '-')}"
    body = Problem(type=kind, title=title, status=status, detail=detail, request_id=request_id.get(), errors=errors)
    return Response(body.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    app.add_exception_handler(LabelerError, _on_purpose)
    app.add_exception_handler(RequestProblem, _on_purpose)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)


def answer_to(error: LabelerError | RequestProblem) -> Response:
    if isinstance(error, RequestProblem):
        return problem(error.status, error.detail, error.headers)
    if isinstance(error, StorageError):
        # The message names files and servers, which are nothing to the one who asks.
        log.error("storage", extra={"error": str(error)})
        return problem(503, "the database does not answer; try again in a while", {"Retry-After": "5"})
    return problem(error.http_status, str(error))


def _on_purpose(_request: Request, error: Exception) -> Response:
    assert isinstance(error, LabelerError | RequestProblem)
    return answer_to(error)


def _of_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Without the input itself, which may be long and may be secret.
    found = [
        {"where": [str(p)[:100] for p in e["loc"]], "problem": e["msg"][:200]} for e in error.errors()[:_MOST_ERRORS]
    ]
    first = found[0] if found else {"where": ["request"], "problem": "cannot be read"}
    return problem(422, f"{'.'.join(first['where'])}: {first['problem']}", errors=found)


def _of_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))
