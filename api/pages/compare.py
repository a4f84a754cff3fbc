"""Two label sets of one SAE side by side: where they agree, and where their scores differ most."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.pages.access import Viewer
from api.pages.charts import USUAL, score_scale
from api.pages.render import render
from api.parameters import StoreOf
from labeler.errors import InputError
from labeler.rest_schema import Id
from labeler.store import Store
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.catalogue import SetInfo
from labeler.store.label_sets.compare import Difference, compare_sets, compared_scores
from labeler.store.label_sets.queries import labels_at

router = APIRouter()
_SETS = 500  # to choose from
SetChoice = Annotated[Id | None, Query()]


@router.get("/compare")
def compare_page(
    request: Request,
    store: StoreOf,
    _: Viewer,
    a: SetChoice = None,
    b: SetChoice = None,
    score: Annotated[str, Query(max_length=100)] = "score",
) -> Response:
    sets = catalogue.newest_sets(store, None, _SETS, [i for i in (a, b) if i is not None])
    values: dict[str, Any] = {"sets": _by_sae(sets), "a": a, "b": b, "problem": None, "compared": None, "score": score}
    if a is not None and b is not None:
        try:
            values |= _compared(store, a, b, score)
        except InputError as error:
            values["problem"] = str(error)
    return render(request, "compare.html.j2", status=200 if values["problem"] is None else 422, **values)


def _by_sae(sets: list[SetInfo]) -> dict[str, list[SetInfo]]:
    grouped: dict[str, list[SetInfo]] = {}
    for s in sets:
        grouped.setdefault(f"SAE {s.sae_id}: {s.subject} {s.hookpoint}", []).append(s)
    return grouped


def _sides(found: Difference, rows: tuple[Any, Any], is_main: bool) -> list[dict[str, Any]]:
    """Return a feature's row in each set, with the score that is compared, its interval and its scale."""
    scored = ((found.score_a, found.interval_a), (found.score_b, found.interval_b))
    sides = []
    for row, (score, interval) in zip(rows, scored, strict=True):
        baseline = row["baseline_token_lookup"] if row and is_main else None
        low, high = interval or (None, None)
        scale = score_scale(score, low, high, baseline, least=USUAL if is_main else None)
        sides.append({"row": row, "score": score, "interval": interval, "scale": scale})
    return sides


def _compared(store: Store, a: int, b: int, score: str) -> dict[str, Any]:
    """Raises NotFoundError, InputError for a score that neither has, MismatchError for label sets of different SAEs."""
    infos = [catalogue.find_set(store, label_set) for label_set in (a, b)]
    found = compare_sets(store, a, b, score=score)
    features = [difference.feature_index for difference in found.largest]
    rows = labels_at(store, [(label_set, f) for f in features for label_set in (a, b)])
    return {
        "compared": found,
        "infos": infos,
        "choices": compared_scores(store, a, b),
        "pairs": [
            _sides(d, pair, score == "score")
            for d, pair in zip(found.largest, zip(rows[::2], rows[1::2], strict=True), strict=True)
        ],
        "medians": [found.median_a, found.median_b],
        "states": sorted({state for counts in found.states.values() for state in counts} | found.states.keys()),
    }
