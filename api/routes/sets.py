"""Label sets: what they cover, their cards, and all of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Literal

import orjson
import pyarrow
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from api.access import Reader
from api.conditional import precondition, ranged
from api.parameters import PROBLEMS, Cursor, Limit, SaeQuery, SetId, StoreOf, after_id, kept, page_by_id
from api.paths import Paths
from api.seats import SeatedResponse
from api.spool import Spool
from labeler import __version__
from labeler.errors import ConflictError, InputError, NotFoundError
from labeler.export.card import build_card, card_markdown
from labeler.export.export import with_top_contexts
from labeler.export.stream import MEDIA_TYPES, LabelRows, encode_rows, encode_version, read_rows
from labeler.rest_schema import LabelSet, LabelSetDetail, Page
from labeler.store import Store
from labeler.store.base.columns import version_of_rows
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.choice import default_set

router = APIRouter(tags=["sets"], responses=PROBLEMS)
_ATTEMPTS = 3  # to catch a label set that is changing all the time between two changes


@router.get("/sets")
def list_sets(
    store: StoreOf, _: Reader, limit: Limit = 50, cursor: Cursor = None, sae: SaeQuery = None
) -> Page[LabelSet]:
    """Label sets: the results of one recipe on one SAE each."""
    sae_id = None if sae is None else catalogue.find_sae(store, sae).id
    name = f"sets of {sae_id}"
    return page_by_id(name, catalogue.list_sets(store, sae_id, after_id(name, cursor), limit + 1), limit, LabelSet)


@router.get("/sets/default")
def read_default(
    store: StoreOf, _: Reader, sae: SaeQuery = None, feature: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None
) -> LabelSet:
    """Read the label set used where none is named: for a feature, for an SAE, or for the whole service."""
    if sae is None and feature is not None:
        raise InputError("feature: name the SAE that it is of, with `sae`")
    sae_id = None if sae is None else catalogue.find_sae(store, sae).id
    chosen = default_set(store, sae=sae_id, feature=feature)
    if chosen is None:
        raise NotFoundError("there is no label set yet" if sae_id is None else f"SAE {sae_id} has no label set yet")
    return LabelSet.model_validate(catalogue.find_set(store, chosen))


@router.get("/sets/{set}", response_model=LabelSetDetail)
def read_set(store: StoreOf, _: Reader, request: Request, set: SetId) -> Response:
    """One label set, with its recipe and its figures."""
    info = catalogue.find_set(store, set)
    parts = {"recipe": store.recipe_of(set), "summary": asdict(store.summary(set))}
    return kept(request, LabelSetDetail.model_validate({**asdict(info), "name": info.name, **parts}))


@router.get(
    "/sets/{set}/card",
    response_class=Response,
    responses={200: {"content": {"application/json": {}, "text/markdown": {}}, "description": "The card."}},
)
def read_card(
    store: StoreOf, _: Reader, request: Request, set: SetId, format: Literal["json", "markdown"] = "json"
) -> Response:
    """Read the card, which says how the labels were made and how good they are, as JSON or Markdown."""
    catalogue.find_set(store, set)
    card = request.app.state.paths.value(build_card(store, set))
    if format == "markdown":
        return kept(request, card_markdown(card).encode(), "text/markdown; charset=utf-8")
    return kept(request, orjson.dumps(card))


@router.get(
    "/sets/{set}/export",
    response_class=StreamingResponse,
    responses={
        200: {"content": {name.partition(";")[0]: {} for name in MEDIA_TYPES.values()}, "description": "The rows."},
        206: {"description": "The bytes that `Range` asked for."},
        304: {"description": "`If-None-Match` has it."},
        412: {**PROBLEMS[422], "description": "The label set is not what `If-Match` says."},
        416: {**PROBLEMS[422], "description": "`Range` begins behind the end."},
    },
)
async def export(
    store: StoreOf,
    caller: Reader,
    request: Request,
    set: SetId,
    format: Literal["jsonl", "csv", "parquet"] = "jsonl",
    after: Annotated[
        int, Query(ge=-1, le=2**31 - 1, description="Only features behind this one: the last that arrived.")
    ] = -1,
    limit: Annotated[
        int | None, Query(ge=1, le=10_000_000, description="Rows in this part; `Link` leads to the next one.")
    ] = None,
    top_contexts: Annotated[
        int, Query(ge=0, le=50, description="Number of strongest contexts with each row; sent without ETag.")
    ] = 0,
    spreadsheet: Annotated[
        bool, Query(description="For csv: no text begins like a formula, which a spreadsheet would run.")
    ] = False,
) -> Response:
    """All rows, in the order of features, as they are at one moment. A broken download goes on with `Range` and `If-Range`.

    Or in parts, with `after` and `limit`: each is a whole file, also of Parquet, of its own moment, and without ETag.
    """
    if spreadsheet and format != "csv":
        raise InputError(f"spreadsheet is a form of csv, and not of {format}: leave it out, or ask for csv")
    if not await run_in_threadpool(store.has_results, set):
        raise ConflictError(f"label set {set} has no results yet: an export of it would have 0 rows; label it first")
    if after < 0 and limit is None and not top_contexts:
        return await _whole(store, request, caller.id, set, format, spreadsheet)
    return await run_in_threadpool(
        _part, store, request, caller.id, set, format, after, limit, top_contexts, spreadsheet
    )


async def _whole(store: Store, request: Request, key: str, set: int, format: str, spreadsheet: bool) -> Response:
    headers, media_type = _attachment(f"labels-{set}.{format}"), MEDIA_TYPES[format]
    form = f"{format}-spreadsheet" if spreadsheet else format
    paths: Paths = request.app.state.paths
    for _ in range(_ATTEMPTS):
        version = await run_in_threadpool(_version, store, set)
        tag = f'"{version}-{form}-{__version__}-{pyarrow.__version__}"'
        if (known := precondition(request, tag)) is not None:
            return known
        spool: Spool = request.app.state.spool
        encode = partial(encode_version, store, set, format, version, paths.value, spreadsheet=spreadsheet)
        file = spool.get(f"{set}-{version}.{form}", encode, key)
        try:
            await file.wait_for(0)
        except ConflictError:
            continue
        return await ranged(request, key, file, tag, headers, media_type)
    # It changes all the time: each row is as it was when it was read, and a part of it would be a part of nothing.
    pieces = _encoded(store, paths, read_rows(store, set), set, format, spreadsheet)
    return SeatedResponse(pieces, request.app.state.downloads, key, headers=headers, media_type=media_type)


def _version(store: Store, set: int) -> str:
    catalogue.find_set(store, set)
    store.count_changes(set)  # so that the version stays as it is until a result changes
    with store.database.reading() as connection:
        return version_of_rows(connection, set)


def _part(
    store: Store,
    request: Request,
    key: str,
    set: int,
    format: str,
    after: int,
    limit: int | None,
    top_contexts: int,
    spreadsheet: bool,
) -> Response:
    catalogue.find_set(store, set)
    rows = read_rows(store, set, after, limit)
    if top_contexts:
        rows = with_top_contexts(store, store.label_set(set), rows, top_contexts)
    headers = _attachment(f"labels-{set}" + (f"-after-{after}" if after >= 0 else "") + f".{format}")
    end = None if limit is None else catalogue.end_of_part(store, set, after, limit)
    if end is not None:
        headers["Link"] = f'<{request.url.include_query_params(after=end).replace(scheme="", netloc="")}>; rel="next"'
    return SeatedResponse(
        _encoded(store, request.app.state.paths, rows, set, format, spreadsheet),
        request.app.state.downloads,
        key,
        headers=headers,
        media_type=MEDIA_TYPES[format],
    )


def _encoded(store: Store, paths: Paths, rows: LabelRows, set: int, format: str, spreadsheet: bool) -> Iterator[bytes]:
    rows = replace(rows, same=paths.value(rows.same))
    return encode_rows(format, rows, lambda: paths.value(build_card(store, set)), spreadsheet=spreadsheet)


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
