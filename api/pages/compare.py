"""Two label sets of one SAE side by side: where they agree, and where their scores differ most."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.pages.access import Viewer
from api.pages.render import render
from api.pages.saes import row_scale
from api.parameters import StoreOf
from labeler.errors import InputError
from labeler.rest_schema import Id
from labeler.store import Store
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.catalogue import SetInfo
from labeler.store.label_sets.compare import compare_sets
from labeler.store.label_sets.queries import labels_at

router = APIRouter()
_SETS = 500  # to choose from
SetChoice = Annotated[Id | None, Query()]


@router.get("/compare")
def compare_page(request: Request, store: StoreOf, _: Viewer, a: SetChoice = None, b: SetChoice = None) -> Response:
    sets = catalogue.newest_sets(store, None, _SETS, [i for i in (a, b) if i is not None])
    values: dict[str, Any] = {"sets": _by_sae(sets), "a": a, "b": b, "problem": None, "compared": None}
    if a is not None and b is not None:
        try:
            values |= _compared(store, a, b)
        except InputError as error:
            values["problem"] = str(error)
    return render(request, "compare.html.j2", status=200 if values["problem"] is None else 422, **values)


def _by_sae(sets: list[SetInfo]) -> dict[str, list[SetInfo]]:
    grouped: dict[str, list[SetInfo]] = {}
    for s in sets:
        grouped.setdefault(f"SAE {s.sae_id}: {s.subject} {s.hookpoint}", []).append(s)
    return grouped


def _compared(store: Store, a: int, b: int) -> dict[str, Any]:
    """Raises NotFoundError, and MismatchError for label sets of different SAEs."""
    infos = [catalogue.find_set(store, label_set) for label_set in (a, b)]
    found = compare_sets(store, a, b)
    features = [difference.feature_index for difference in found.largest]
    rows = labels_at(store, [(label_set, f) for f in features for label_set in (a, b)])
    return {
        "compared": found,
        "infos": infos,
        "scale": row_scale,
        "pairs": list(zip(rows[::2], rows[1::2], strict=True)),
        "medians": [found.median_a, found.median_b],
        "states": sorted({state for counts in found.states.values() for state in counts} | found.states.keys()),
    }
