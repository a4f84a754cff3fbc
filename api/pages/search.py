"""Search across labels, the words that were found marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from markupsafe import Markup, escape

from api.finding import FoundPage
from api.pages.access import Viewer
from api.pages.render import render, url
from api.pages.saes import row_scale
from api.parameters import By, Cursor, FinderOf, SaeQuery, SetQuery, StoreOf, Words, ids_in
from labeler.errors import InputError, LLMError
from labeler.rest_schema import SearchBy
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.search import terms_of

router = APIRouter()
_HITS = 30
_SAES = 200  # to choose from
_ENDINGS = re.compile(r"(?:ations?|ings?|edly|ed|ies|es|ly|s|e|y)$")


@router.get("/search")
def search_page(
    request: Request,
    store: StoreOf,
    finder: FinderOf,
    _: Viewer,
    q: Annotated[Words, Query(max_length=200)] = "",
    sae: SaeQuery = None,
    set: SetQuery = None,
    cursor: Cursor = None,
    by: By = SearchBy.WORDS,
) -> Response:
    found = FoundPage([], 0, complete=True, next_cursor=None)
    problem, status = None, 200
    if q.strip():
        try:
            found = finder.page(q, by, sae, set, _HITS, cursor)
        except (InputError, LLMError) as error:
            problem, status = str(error), error.http_status
    more = found.next_cursor and url("/search", q=q, sae=sae, set=set, by=_shown(by), cursor=found.next_cursor)
    return render(
        request,
        "search.html.j2",
        status,
        q=q,
        sae=sae,
        set=set,
        by=_shown(by),
        has_meaning=finder.model,
        cursor=cursor,
        problem=problem,
        more=more,
        scale=row_scale,
        highlighted=lambda label: highlight(label, q if by is SearchBy.WORDS else ""),
        saes=catalogue.newest_saes(store, _SAES, ids_in(sae or "")),
        **vars(found),
    )


def _shown(by: SearchBy) -> SearchBy | None:
    """Return the value for addresses: nothing for a search by words, which is the default."""
    return None if by is SearchBy.WORDS else by


def highlight(label: str, query: str) -> Markup:
    """The label with what was searched for marked: phrases as they stand, words with all their endings."""
    wanted = _patterns(query)
    if not wanted:
        return escape(label)
    pattern, parts, end = re.compile("|".join(wanted), re.IGNORECASE), list[Markup](), 0
    for match in pattern.finditer(label):
        if match.end() > match.start():
            parts += [escape(label[end : match.start()]), Markup("<mark>{}</mark>").format(match[0])]
            end = match.end()
    return Markup("").join([*parts, escape(label[end:])])


def _patterns(query: str) -> Sequence[str]:
    patterns = []
    for is_wanted, term in terms_of(query):
        words = re.findall(r"\w+", term)
        if not is_wanted or not words:
            continue
        *before, last = words
        patterns.append(r"\b" + r"\W+".join([*map(re.escape, before), re.escape(_stem(last)) + r"\w*"]))
    return patterns


def _stem(word: str) -> str:
    """Cut an English ending from a word, if enough is left. The search stems more finely; this only marks."""
    stem = _ENDINGS.sub("", word)
    return stem if len(stem) >= 3 else word
