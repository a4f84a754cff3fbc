"""Labels: filtered and sorted pages, look-ups of many features at once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import Reader
from api.parameters import PROBLEMS, Cursor, FeatureIndex, Limit, SaeQuery, SetId, SetQuery, StoreOf, Words
from api.query import AskedOfScores
from labeler.errors import NotFoundError
from labeler.records import State
from labeler.rest_schema import Label, LookupRequest, LookupResponse, Page, Text
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.batch_get import batch_get
from labeler.store.label_sets.queries import LabelFilter, Reviewed, list_labels, one_label

router = APIRouter(tags=["labels"], responses=PROBLEMS)
Number = Annotated[float | None, Query(allow_inf_nan=False)]


@router.get("/labels")
def list_all(
    store: StoreOf,
    _: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    sae: SaeQuery = None,
    set: SetQuery = None,
    state: State | None = None,
    explainer: Annotated[Text | None, Query(max_length=200, examples=["openai:gpt-5-mini"])] = None,
    recipe: Annotated[Text | None, Query(max_length=64, description="The recipe's hash.")] = None,
    text: Annotated[
        Words | None, Query(max_length=200, description='Words and "phrases" of the label; -word: without it.')
    ] = None,
    score_min: Number = None,
    score_max: Number = None,
    score_low_min: Annotated[
        float | None, Query(allow_inf_nan=False, description="Only scores whose whole interval is at least this high.")
    ] = None,
    score_high_max: Annotated[
        float | None, Query(allow_inf_nan=False, description="Only scores whose whole interval is at most this high.")
    ] = None,
    density_min: Number = None,
    density_max: Number = None,
    width_max: Annotated[
        float | None,
        Query(allow_inf_nan=False, description="The largest width of the score's interval.", examples=[0.3]),
    ] = None,
    reviewed: Annotated[Reviewed | None, Query(description="Filter by the newest review of the present label.")] = None,
    *,
    of_scores: AskedOfScores,
) -> Page[Label]:
    """Features of label sets, with their labels and scores.

    Every score can be filtered: by its value (`detection_min`, `detection_max`), by its interval (`detection_low_min`,
    `detection_high_max`, `detection_width_max`) and by its p-value (`detection_null_p_max`).
    """
    where = LabelFilter(
        None if sae is None else catalogue.find_sae(store, sae).id,
        set,
        state,
        explainer,
        recipe,
        text,
        score_min,
        score_max,
        score_low_min,
        score_high_max,
        density_min,
        density_max,
        width_max,
        reviewed,
        of_scores.bounds,
    )
    page = list_labels(store, where, of_scores.sort, limit, cursor, with_scores=True)
    return Page[Label].model_validate({"items": page.rows, "next_cursor": page.next_cursor})


@router.get("/labels/{set}/{index}")
def read_one(store: StoreOf, _: Reader, set: SetId, index: FeatureIndex) -> Label:
    """One feature in one label set."""
    row = one_label(store, set, index)
    if row is None:
        raise NotFoundError(f"feature {index} has no result in label set {set}")
    return Label.model_validate(row)


@router.post("/labels:lookup")
def look_up(store: StoreOf, _: Reader, asked: LookupRequest) -> LookupResponse:
    """The labels of up to 10,000 features of any SAEs, in one request."""
    found = batch_get(store, asked.pairs, label_sets=asked.sets, choose=asked.choose, with_scores=asked.scores)
    return LookupResponse.model_validate({"labels": found})
