"""Label sets: what they cover, their cards, and all of their rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.access import Reader
from api.parameters import PROBLEMS, Cursor, Limit, SaeQuery, SetId, StoreOf, after_id, kept, page_by_id
from labeler.export.card import build_card, card_markdown
from labeler.export.stream import MEDIA_TYPES, encode_rows, read_rows
from labeler.store import catalogue
from labeler.wire import LabelSet, LabelSetDetail, Page

router = APIRouter(tags=["sets"], responses=PROBLEMS)


@router.get("/sets")
def list_sets(
    store: StoreOf, _: Reader, limit: Limit = 50, cursor: Cursor = None, sae: SaeQuery = None
) -> Page[LabelSet]:
    """Label sets: the results of one recipe on one SAE each."""
    sae_id = None if sae is None else catalogue.find_sae(store, sae).id
    name = f"sets of {sae_id}"
    return page_by_id(name, catalogue.list_sets(store, sae_id, after_id(name, cursor), limit + 1), limit, LabelSet)


@router.get("/sets/{set}", response_model=LabelSetDetail)
def read_set(store: StoreOf, _: Reader, request: Request, set: SetId) -> Response:
    """One label set, with its recipe and its figures."""
    info = catalogue.find_set(store, set)
    parts = {"recipe": store.recipe_of(set), "summary": asdict(store.summary(set))}
    return kept(request, LabelSetDetail.model_validate({**asdict(info), **parts}))


@router.get(
    "/sets/{set}/card", response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/markdown": {}}, "description": "The card."}},
)  # fmt: skip
def read_card(
    store: StoreOf, _: Reader, request: Request, set: SetId, format: Literal["json", "markdown"] = "json"
) -> Response:
    """How the labels were made, and what they are worth: one page, for machines or for people."""
    catalogue.find_set(store, set)
    card = build_card(store, set)
    if format == "markdown":
        return kept(request, card_markdown(card).encode(), "text/markdown; charset=utf-8")
    return kept(request, orjson.dumps(card))


@router.get(
    "/sets/{set}/export", response_class=StreamingResponse,
    responses={200: {"content": {name.partition(";")[0]: {} for name in MEDIA_TYPES.values()}, "description": "The rows."}},
)  # fmt: skip
def export(
    store: StoreOf,
    _: Reader,
    request: Request,
    set: SetId,
    format: Literal["jsonl", "csv", "parquet"] = "jsonl",
    after: Annotated[
        int, Query(ge=-1, le=2**31 - 1, description="Only features behind this one: the last that arrived.")
    ] = -1,
    limit: Annotated[
        int | None, Query(ge=1, le=10_000_000, description="Rows in this part; `Link` leads to the next one.")
    ] = None,
) -> Response:
    """All rows, in the order of features. A part, also of Parquet, is a whole file; a broken download goes on with `after`."""
    catalogue.find_set(store, set)
    rows = read_rows(store, set, after, limit)
    name = f"labels-{set}" + (f"-after-{after}" if after >= 0 else "")
    headers = {"Content-Disposition": f'attachment; filename="{name}.{format}"'}
    end = None if limit is None else catalogue.end_of_part(store, set, after, limit)
    if end is not None:
        headers["Link"] = f'<{request.url.include_query_params(after=end).replace(scheme="", netloc="")}>; rel="next"'
    return StreamingResponse(
        encode_rows(format, rows, lambda: build_card(store, set)), headers=headers, media_type=MEDIA_TYPES[format]
    )
