"""Search across labels, the words that were found marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from markupsafe import Markup, escape

from api.finding import Finder
from api.pages.access import Viewer
from api.pages.render import render, url
from api.pages.saes import row_scale
from api.parameters import By, Cursor, FinderOf, SaeQuery, SetQuery, StoreOf, Words
from labeler.errors import InputError, LLMError
from labeler.store import Store, catalogue
from labeler.store.cursors import make_cursor, read_cursor
from labeler.store.people import rows_of_hits
from labeler.wire import SearchBy

router = APIRouter()
_HITS = 30
_TERM = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))')
_ENDINGS = re.compile(r"(?:ations?|ings?|edly|ed|ies|es|ly|s|e|y)$")


@router.get("/search")
def search_page(
    request: Request, store: StoreOf, finder: FinderOf, _: Viewer, q: Annotated[Words, Query(max_length=200)] = "",
    sae: SaeQuery = None, set: SetQuery = None, cursor: Cursor = None, by: By = SearchBy.WORDS,
) -> Response:  # fmt: skip
    found: dict[str, Any] = {"rows": [], "n_hits": 0, "complete": True, "next_cursor": None}
    problem = None
    if q.strip():
        try:
            sae_id = None if sae is None else catalogue.find_sae(store, sae).id
            found = _search(store, finder, q, by, sae_id, set, cursor)
        except (InputError, LLMError) as error:
            problem = str(error)
    more = found["next_cursor"] and url("/search", q=q, sae=sae, set=set, by=_shown(by), cursor=found["next_cursor"])
    return render(
        request, "search.html.j2", q=q, sae=sae, set=set, by=_shown(by), has_meaning=finder.model, cursor=cursor, problem=problem, more=more, scale=row_scale,
        highlighted=lambda label: highlight(label, q if by is SearchBy.WORDS else ""), saes=catalogue.list_saes(store, 0, 200), **found,
    )  # fmt: skip


def _shown(by: SearchBy) -> SearchBy | None:
    """What goes into addresses: nothing for words, which are usual."""
    return None if by is SearchBy.WORDS else by


def _search(
    store: Store, finder: Finder, text: str, by: SearchBy, sae: int | None, label_set: int | None, cursor: str | None
) -> dict[str, Any]:
    sets = [s for s in catalogue.sets_of(store, sae) if label_set in (None, s)]
    query = ("search page", text, sae, label_set, by)
    found = finder.find(text, by, sets, _HITS + 1, read_cursor(query, cursor, (float, int, int, int)))
    shown = found.hits[:_HITS]
    rows = rows_of_hits(store, shown)
    last = shown[-1] if len(found.hits) > _HITS else None
    return {
        "rows": [(row, hit.rank) for row, hit in zip(rows, shown, strict=True) if row is not None], "n_hits": found.n_hits, "complete": found.complete,
        "next_cursor": last and make_cursor(query, last.position),
    }  # fmt: skip


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
    for minus, phrase, word in _TERM.findall(query):
        words = re.findall(r"\w+", phrase or word)
        if minus or not words:
            continue
        *before, last = words
        patterns.append(r"\b" + r"\W+".join([*map(re.escape, before), re.escape(_stem(last)) + r"\w*"]))
    return patterns


def _stem(word: str) -> str:
    """What is left without an English ending, where enough is left. The search stems more finely; this only marks."""
    stem = _ENDINGS.sub("", word)
    return stem if len(stem) >= 3 else word
