"""The page of an SAE: its quality, its scores, and a table of its features to filter, sort and page."""

from __future__ import annotations

import math
import random as chance
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from api.pages.access import Viewer
from api.pages.charts import USUAL, density_histogram, score_histogram, score_scale
from api.pages.render import is_partial, render, url
from api.parameters import Cursor, SaeReference, SetId, SetQuery, StoreOf
from api.query import checked_by_route, nearest
from labeler.errors import InputError, NotFoundError
from labeler.numbers import number
from labeler.records import State
from labeler.schema import DECLARED, MAIN, Column, Use, filters, in_order, score_columns, sorts
from labeler.store import LabelSetSummary, Store
from labeler.store.base.columns import scores_in
from labeler.store.base.cursors import make_cursor
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.catalogue import SaeInfo, SetInfo
from labeler.store.label_sets.choice import default_set
from labeler.store.label_sets.queries import Bound, LabelFilter, Page, Reviewed, Sort, list_labels

router = APIRouter()
_ROWS = 50
_SETS = 500  # label sets of an SAE
_NUMBERS = {  # the fields that are always there, with their limits
    **{
        f"{name}_{end}": (DECLARED[name].low, DECLARED[name].high)
        for name in ("score", "density")
        for end in ("min", "max")
    },
    "width_max": (0.0, 2.0),
}
_FIELDS = ("state", "text", "reviewed", "sort", "by", *_NUMBERS)
_ANY = (-math.inf, math.inf)
_NAMED = 6  # choices in a message
_ROOM = 200  # characters of what is typed into a field


@dataclass(frozen=True)
class TableQuery:
    """The fields of the form above the table, and the same values as the store understands them."""

    fields: dict[str, str]  # of the form, those that are filled
    where: LabelFilter
    sort: str
    problems: dict[str, str]  # by field, why it cannot be read
    unknown: dict[str, str | None]  # what the address asks for and the form does not have, with the nearest field
    scores: tuple[Column, ...] = ()  # the scores of the label set beside the main one
    by: Column | None = None  # the one among them that the table shows too
    shown: tuple[str, ...] = ()  # filters by these scores that the form shows

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Return the scores to choose from, each with its name for people."""
        return [(column.name, column.name.replace("_", " ")) for column in self.scores]

    @property
    def labels(self) -> list[tuple[str, str]]:
        """Return the shown filters by scores, each with its label, such as `detection from`."""
        ends = {"min": "from", "max": "up to"}
        parts = [(name, *name.rsplit("_", 1)) for name in self.shown]
        return [(name, f"{column.replace('_', ' ')} {ends[end]}") for name, column, end in parts]


@router.get("/saes/{sae}", dependencies=[Depends(checked_by_route)])
def sae_page(
    request: Request, store: StoreOf, _: Viewer, sae: SaeReference, set: SetQuery = None, cursor: Cursor = None
) -> Response:
    """Show the page, or for htmx only the form and its table. An unreadable filter comes back with the reason."""
    info = catalogue.find_sae(store, sae)
    sets, chosen = sets_and_chosen(store, info, set)
    asked = read_query(request.query_params, chosen, _scores_of(store, chosen))
    page = _rows(store, asked, cursor)
    values: dict[str, Any] = {
        "sae": info,
        "sets": sets,
        "chosen": chosen,
        "asked": asked,
        "page": page,
        "cursor": cursor,
        "scale": row_scale,
        "order_of": lambda sort: _address(info, chosen, asked, sort),
        "next_page": page.next_cursor and _address(info, chosen, asked, asked.sort, page.next_cursor),
    }
    if is_partial(request):  # htmx accepts only answers with 200
        return render(request, "listing.html.j2", **values)
    status = 422 if asked.problems else 200
    return render(request, "sae.html.j2", status, **values, **_about(store, info, chosen))


def _rows(store: Store, asked: TableQuery, cursor: str | None) -> Page:
    """The page of the table; none, with the problem noted, where the store cannot read what is asked."""
    if asked.where.label_set is None or asked.problems:
        return Page((), None)
    try:
        return list_labels(store, asked.where, asked.sort, _ROWS, cursor, with_scores=asked.by is not None)
    except InputError as error:  # a text without a word, or the place of a page in another list
        asked.problems["cursor" if cursor else "text"] = str(error)
        return Page((), None)


def sets_and_chosen(
    store: Store, sae: SaeInfo, wanted: int | None, feature: int | None = None
) -> tuple[list[SetInfo], SetInfo | None]:
    """Return the label sets of an SAE, the newest first, and the chosen one: the given or the default one.

    Of very many sets the newest, and the chosen one. Raises NotFoundError.
    """
    asked = default_set(store, sae=sae.id, feature=feature) if wanted is None else wanted
    sets = catalogue.newest_sets(store, sae.id, _SETS, () if asked is None else (asked,))
    found = next((s for s in sets if s.id == asked), None)
    if wanted is not None and found is None:
        raise NotFoundError(
            f"label set {wanted}: SAE {sae.id} has no such label set; it has {', '.join(str(s.id) for s in sets) or 'none yet'}"
        )
    return sets, found


def _scores_of(store: Store, chosen: SetInfo | None) -> tuple[Column, ...]:
    """Return the columns of all scores of a label set that can be filtered and sorted, the main score's too."""
    if chosen is None:
        return ()
    store.count_changes(chosen.id)
    with store.database.reading() as connection:
        names = in_order({MAIN, *scores_in(connection, chosen.id)})
    return tuple(column for name in names for column in score_columns(name) if Use.SORTED in column.use)


def read_query(query: Mapping[str, str], chosen: SetInfo | None, columns: tuple[Column, ...] = ()) -> TableQuery:
    """The form as the address fills it, with a reason for each field that cannot be read.

    `columns` are those of the label set's scores.
    """
    values = {column.name: column for column in columns if column.part == "value" and column.score != MAIN}
    of_scores = {name: place for name, place in filters(columns).items() if name not in _NUMBERS}
    fields = {name: text for name in (*_FIELDS, *of_scores) if (text := query.get(name, "").strip()[:_ROOM])}
    problems: dict[str, str] = {}

    def read(name: str, reader: Callable[[str], Any]) -> Any:
        try:
            return reader(fields[name]) if name in fields else None
        except ValueError as error:
            problems[name] = str(error)
            return None

    numbers = {name: read(name, partial(_number, limits=limits)) for name, limits in _NUMBERS.items()}
    bounds = {name: read(name, partial(_number, limits=_ANY)) for name in of_scores}
    by = read("by", partial(_among, names=tuple(values))) or read("sort", partial(_score_in, values=values))
    if by:
        fields["by"] = by
    sort = read("sort", partial(_among, names=(*sorts(columns), *Sort))) or Sort.INDEX
    for name in ("score", "density", *values):
        low, high = ((numbers | bounds).get(f"{name}_{end}") for end in ("min", "max"))
        if low is not None and high is not None and low > high:
            problems[f"{name}_max"] = f"below the lower limit, {fields[f'{name}_min']}: no feature can fit"
    where = LabelFilter(
        label_set=None if chosen is None else chosen.id,
        state=read("state", lambda text: State(_among(text, tuple(State)))),
        text=fields.get("text"),
        reviewed=read("reviewed", lambda text: Reviewed(_among(text, tuple(Reviewed)))),
        bounds=tuple(Bound(*of_scores[name], value) for name, value in bounds.items() if value is not None),
        **numbers,
    )
    known = (*_FIELDS, *of_scores, "set", "cursor")
    unknown = {name[:_ROOM]: nearest(name, known) for name in query if name not in known}
    shown = (f"{by}_min", f"{by}_max") if by else ()
    return TableQuery(
        fields,
        where,
        str(sort),
        problems,
        unknown,
        tuple(values.values()),
        values[by] if by else None,
        tuple(name for name in of_scores if name in shown or name in fields),
    )


def _score_in(sort: str, values: Mapping[str, Column]) -> str | None:
    """Return the score by which a table is sorted, if it is not the main one."""
    return name if (name := sort.removeprefix("-")) in values else None


def _among(text: str, names: tuple[str, ...]) -> str:
    if text not in names:
        near = nearest(text, names)
        listed = ", ".join(names[:_NAMED]) + (" and others" if len(names) > _NAMED else "")
        raise ValueError(f"{text!r} is none of {listed}" + (f"; the nearest is {near}" if near else ""))
    return text


def _number(text: str, limits: tuple[float, float]) -> float:
    """A number, also as per cent."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number; write such as 0.5, 1e-4 or 2%")
    low, high = limits
    if not low <= value <= high:
        raise ValueError(f"{text} lies outside {number(low, 0)} to {number(high, 0)}")
    return value


def _address(sae: SaeInfo, chosen: SetInfo | None, asked: TableQuery, sort: str, cursor: str | None = None) -> str:
    fields = {**asked.fields, "sort": None if sort == Sort.INDEX else sort}
    return url(f"/saes/{sae.id}", set=chosen and chosen.id, **fields, cursor=cursor)


def row_scale(row: Mapping[str, Any]) -> Any:
    """The small scale of a row of labels: the same for all rows."""
    return score_scale(row["score"], row["score_low"], row["score_high"], row["baseline_token_lookup"], least=USUAL)


def _about(store: Store, sae: SaeInfo, chosen: SetInfo | None) -> dict[str, Any]:
    summary: LabelSetSummary | None = None if chosen is None else store.summary(chosen.id)
    manifest = manifest_of(store, sae, chosen)
    quality = manifest.get("quality") or {}
    return {
        "summary": summary,
        "manifest": manifest,
        "quality": quality,
        "densities": density_histogram(quality),
        "scores": summary and score_histogram(summary.histogram),
    }


def manifest_of(store: Store, sae: SaeInfo, chosen: SetInfo | None) -> dict[str, Any]:
    """Return the manifest of the gathering pass, or an empty one where there was none."""
    if chosen is not None:
        return store.manifest_of(chosen.id)
    try:
        return store.evidence(catalogue.newest_evidence(store, sae.id).id)[0]
    except NotFoundError:
        return {}


@router.get("/saes/{sae}/random")
def random_feature(
    store: StoreOf, _: Viewer, sae: SaeReference, set: SetQuery = None, embed: int | None = None
) -> Response:
    """A feature that has a label, where there is one."""
    info = catalogue.find_sae(store, sae)
    chosen = sets_and_chosen(store, info, set)[1]
    index = chance.randrange(info.n_features)
    if chosen is not None:
        where = LabelFilter(label_set=chosen.id, state=State.LABELED)
        after = make_cursor((where, str(Sort.INDEX)), (chosen.id, index))
        found = list_labels(store, where, limit=1, cursor=after).rows or list_labels(store, where, limit=1).rows
        index = found[0]["feature_index"] if found else index
    return RedirectResponse(url(f"/saes/{info.id}/features/{index}", set=set, embed=embed), 303)


@router.get("/sets/{set}")
def set_page(store: StoreOf, _: Viewer, set: SetId) -> Response:
    return RedirectResponse(url(f"/saes/{catalogue.find_set(store, set).sae_id}", set=set), 303)
