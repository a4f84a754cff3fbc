"""Parameters that several routes share, the store behind them, and answers that a client may keep."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel

from api.conditional import precondition
from api.finding import Finder
from labeler.rest_schema import Page, Problem, SearchBy, Text
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.base.cursors import make_cursor, read_cursor

T = TypeVar("T")
_LARGEST = 2**31 - 1

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": what, "content": {"application/problem+json": {}}}
    for status, what in {
        401: "No valid API key",
        403: "Not with this key, or not from here",
        404: "Not there",
        409: "Not in this state",
        413: "Body too long",
        422: "Cannot work as it is",
        429: "Too many requests",
        503: "No database",
    }.items()
}


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _finder(request: Request) -> Finder:
    finder: Finder = request.app.state.finder
    return finder


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


StoreOf = Annotated[Store, Depends(_store)]
FinderOf = Annotated[Finder, Depends(_finder)]
SettingsOf = Annotated[Settings, Depends(_settings)]
Limit = Annotated[int, Query(ge=1, le=500, description="Items on a page.")]
Cursor = Annotated[Text | None, Query(max_length=500, description="The `next_cursor` of the page before.")]
SaeReference = Annotated[
    Text,
    Path(
        max_length=64,
        description="The SAE's id, or 8 or more characters of the SHA-256 of its weights.",
        examples=["1"],
    ),
]
SaeQuery = Annotated[
    Text | None, Query(max_length=64, description="Only this SAE: its id, or the SHA-256 of its weights.")
]
By = Annotated[
    SearchBy, Query(description="`meaning`: nearest by embedding, where the service has an embeddings endpoint.")
]
SetId = Annotated[int, Path(ge=1, le=_LARGEST, description="The label set's id.", examples=[1])]
SetQuery = Annotated[int | None, Query(ge=1, le=_LARGEST, description="Only this label set.")]
FeatureIndex = Annotated[int, Path(ge=0, le=_LARGEST, examples=[123])]
JobId = Annotated[int, Path(ge=1, le=_LARGEST, examples=[1])]
Words = Annotated[Text, AfterValidator(_composed)]


def ids_in(text: str) -> list[int]:
    """The id that a field of a form names; none where it names none."""
    return [int(text)] if text.isascii() and text.isdecimal() and len(text) < 10 else []


def page_by_id(name: str, found: Sequence[Any], limit: int, kind: type[T]) -> Page[T]:
    """A page of things with ids, of which one more than `limit` was asked for."""
    shown = found[:limit]
    cursor = make_cursor(name, (shown[-1].id,)) if len(found) > limit else None
    return Page[kind].model_validate({"items": shown, "next_cursor": cursor})  # type: ignore[valid-type]


def after_id(name: str, cursor: str | None) -> int:
    position = read_cursor(name, cursor, (int,))
    return position[0] if position else 0


def kept(request: Request, answer: BaseModel | bytes, media_type: str = "application/json") -> Response:
    """The answer with its ETag, or 304 to a client that has it already."""
    body = answer if isinstance(answer, bytes) else answer.model_dump_json().encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    return precondition(request, tag) or Response(body, headers=headers, media_type=media_type)
