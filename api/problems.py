"""Errors as answers: problem+json (RFC 9457), from the error tree of labeler.errors and from what a request does wrong."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from labeler.errors import DamagedError, LabelerError, StorageError
from labeler.logs import request_id
from labeler.rest_schema import Problem

log = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20
_MOST_NAMED_BY_SENDER = 4  # of these
_LONGEST_NAME = 40
_LONGEST_ECHO = 160
_LONGEST_DETAIL = 500
_ECHO = re.compile(r"[\"'\[{(].*[\"'\]})]", re.DOTALL)  # from the first to the last sign of something quoted


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
        # The message names files and servers, which the client must not see.
        log.error("storage", extra={"error": str(error)})
        return problem(503, "the database does not answer; try again in a while", {"Retry-After": "5"})
    if isinstance(error, DamagedError):
        # As above: the file is named as it is called within its folder.
        log.error("damaged evidence", extra={"error": str(error)})
        return problem(error.http_status, _without_echo(error.reason))
    return problem(error.http_status, _without_echo(str(error)))


def _on_purpose(_request: Request, error: Exception) -> Response:
    assert isinstance(error, LabelerError | RequestProblem)
    return answer_to(error)


def _of_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # Without the input itself, which may be long and may be secret; but some names of fields are the sender's.
    found: list[dict[str, Any]] = []
    n_named_by_sender = 0
    for each in error.errors()[:_MOST_ERRORS]:
        n_named_by_sender += each["type"] == "extra_forbidden" or "[key]" in each["loc"]
        if n_named_by_sender <= _MOST_NAMED_BY_SENDER:
            where = [_shortened(str(part), _LONGEST_NAME) for part in each["loc"]]
            found.append({"where": where, "problem": each["msg"][:200]})
    first = found[0] if found else {"where": ["request"], "problem": "cannot be read"}
    return problem(422, f"{'.'.join(first['where'])}: {first['problem']}", errors=found)


def _without_echo(message: str) -> str:
    """The message with little of what was sent, however long that was."""
    if len(message) > _LONGEST_ECHO:
        message = re.sub(r"\S+", lambda word: _shortened(word[0], 2 * _LONGEST_NAME), message)
    if len(message) > 1.5 * _LONGEST_ECHO:
        message = _ECHO.sub(lambda quoted: _shortened(quoted[0], _LONGEST_ECHO), message)
    return message if len(message) <= _LONGEST_DETAIL else _shortened(message, _LONGEST_ECHO)


def _shortened(text: str, most: int) -> str:
    """The text, or its beginning and its end."""
    if len(text) <= most:
        return text
    return f"{text[: most * 3 // 4]}…{text[-most // 4 :]}"


def _of_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail), dict(error.headers or {}))
