"""Query parameters: a misspelled one is refused by the name of the nearest, and every score is a filter and an order."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError

from api.parameters import StoreOf
from labeler.rest_schema import Text
from labeler.schema import DECLARED, Column, End, filters, score_columns, sorts
from labeler.store import Store
from labeler.store.base.columns import scores_in
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.queries import Bound

_LONGEST = 100  # characters of a name
_MOST_SETS = 200  # label sets whose scores may be named
_FILTERS, _SORTS = filters(), sorts()  # of the declared scores


def refuse_unknown(request: Request) -> None:
    """Raise RequestValidationError for a parameter that the route does not have: no wish is silently dropped."""
    dependant: Dependant = request.scope["route"].dependant
    if any(part.call in (checked_by_route, asked_of_scores) for part in dependant.dependencies):
        return
    refuse_others(request, _parameters(request.scope["route"]))


def refuse_others(request: Request, known: Collection[str]) -> None:
    """Raise RequestValidationError for a parameter that is not among these."""
    for name in request.query_params:
        if name not in known:
            raise refusal(name, known)


def checked_by_route() -> None:
    """Say that a route looks at its parameters itself, by being one of its dependencies."""


def _parameters(route: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_names(route.dependant)))


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for part in dependant.dependencies:
        yield from _names(part)


def refusal(name: str, known: Collection[str]) -> RequestValidationError:
    near = nearest(name, known)
    hint = f"the nearest is {near}" if near else f"there are {', '.join(sorted(known))}" if known else "there are none"
    return _problem(name, f"there is no such parameter here; {hint}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like this one, if any does."""
    found = get_close_matches(name[:_LONGEST].lower(), list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def _problem(name: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "query", "loc": ("query", name), "msg": message}])


@dataclass(frozen=True)
class OfScores:
    """What a request asks of scores: bounds on their columns, and the order of the rows."""

    bounds: tuple[Bound, ...]
    sort: str


def asked_of_scores(
    request: Request,
    store: StoreOf,
    sort: Annotated[
        Text,
        Query(
            max_length=_LONGEST,
            examples=["-detection"],
            description="`index`, `score`, `density`, or any other score or end of its interval, such as `detection_low`; "
            "`-` before it: the highest first. By value, only features that have one are listed.",
        ),
    ] = "index",
) -> OfScores:
    """Read filters such as `detection_min` and the order. Raises RequestValidationError for what no score allows."""
    plain = _parameters(request.scope["route"])
    rest = [name for name in request.query_params if name not in plain]
    known, orders = _FILTERS, _SORTS
    if sort not in orders or any(name not in known for name in rest):
        columns = [*DECLARED.values(), *columns_here(store, request.query_params.get("set"))]
        known, orders = filters(columns), sorts(columns)
    for name in rest:
        if name not in known:
            raise refusal(name, (*plain, *known))
    if sort not in orders:
        near = nearest(sort, orders)
        raise _problem("sort", f"there is no such order{f'; the nearest is {near}' if near else ''}")
    return OfScores(tuple(_bound(name, request.query_params[name], *known[name]) for name in rest), sort)


AskedOfScores = Annotated[OfScores, Depends(asked_of_scores)]


def columns_here(store: Store, label_set: str | None) -> list[Column]:
    """Return the columns of the scores that a label set has, or where none is named, that the newest ones have."""
    sets = catalogue.sets_of(store, None)[-_MOST_SETS:]
    if label_set is not None:
        sets = [s for s in sets if str(s) == label_set]
    names: set[str] = set()
    for each in sets:
        store.count_changes(each)
        with store.database.reading() as connection:
            names |= scores_in(connection, each).keys()
    return [column for name in sorted(names) for column in score_columns(name)]


def _bound(name: str, text: str, column: str, end: End) -> Bound:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _problem(name, "expected a finite number, such as 0.5")
    return Bound(column, end, value)
