"""Search over labels, by their words or by their meaning."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.access import Reader
from api.parameters import PROBLEMS, By, Cursor, FinderOf, Limit, SaeQuery, SetQuery, StoreOf, Words
from labeler.store import catalogue
from labeler.store.cursors import make_cursor, read_cursor
from labeler.store.people import rows_of_hits
from labeler.wire import SearchBy, SearchPage

router = APIRouter(tags=["labels"], responses=PROBLEMS)


@router.get("/search")
def search(
    store: StoreOf,
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
    sets = catalogue.sets_of(store, None if sae is None else catalogue.find_sae(store, sae).id)
    chosen = [s for s in sets if set in (None, s)]
    query = ("search", q, sae, set, by)
    found = finder.find(q, by, chosen, limit + 1, read_cursor(query, cursor, (float, int, int, int)))
    shown = found.hits[:limit]
    items = [{**row, "rank": hit.rank} for hit, row in zip(shown, rows_of_hits(store, shown), strict=True) if row]
    last = shown[-1] if len(found.hits) > limit else None
    return SearchPage.model_validate(
        {
            "items": items, "n_hits": found.n_hits, "complete": found.complete,
            "next_cursor": last and make_cursor(query, last.position),
        }
    )  # fmt: skip
