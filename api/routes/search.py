"""Search over labels, by their words or by their meaning."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import Reader
from api.parameters import PROBLEMS, By, Cursor, FinderOf, Limit, SaeQuery, SetQuery, Words
from labeler.rest_schema import SearchBy, SearchPage

router = APIRouter(tags=["labels"], responses=PROBLEMS)


@router.get("/search")
def search(
    finder: FinderOf,
    _: Reader,
    q: Annotated[
        Words,
        Query(min_length=1, max_length=200, description='Words and "phrases"; -word: without it.', examples=["year"]),
    ],
    limit: Limit = 50,
    cursor: Cursor = None,
    sae: SaeQuery = None,
    set: SetQuery = None,
    by: By = SearchBy.WORDS,
) -> SearchPage:
    """Labels with these words, stemmed as English, or with a meaning like this text's; the best first."""
    found = finder.page(q, by, sae, set, limit, cursor)
    items = [{**row, "rank": rank} for row, rank in found.rows]
    return SearchPage.model_validate({**vars(found), "items": items})
