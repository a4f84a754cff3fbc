"""Two label sets side by side."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import Reader
from api.parameters import PROBLEMS, StoreOf
from labeler.rest_schema import Comparison, Id
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.compare import compare_sets

router = APIRouter(tags=["sets"], responses=PROBLEMS)


@router.get("/compare")
def compare(
    store: StoreOf,
    _: Reader,
    a: Annotated[Id, Query(examples=[1])],
    b: Annotated[Id, Query(examples=[2])],
    limit: Annotated[int, Query(ge=0, le=500, description="Number of the largest differences.")] = 20,
    score: Annotated[
        str, Query(max_length=100, description="The column of a score that they have.", examples=["detection"])
    ] = "score",
) -> Comparison:
    """Two label sets of one SAE: agreement, and differences of scores."""
    for label_set in (a, b):
        catalogue.find_set(store, label_set)
    return Comparison.model_validate(compare_sets(store, a, b, limit, score))
