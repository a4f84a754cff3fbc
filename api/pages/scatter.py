"""Scores against densities: every point where there are few, else how many lie where. From columns, never from rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.pages.access import Viewer
from api.parameters import SetId, StoreOf, kept
from labeler.store import Store
from labeler.store.base.columns import changed_parts, keep_whole, version_of, whole
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.scatter import scatter_of

router = APIRouter()
MOST_POINTS = 20_000
_BINS = (120, 80)  # of log density, of score
_NAME = "drawing 1"  # under which it is kept; another number when it is made in another way


@router.get("/sets/{set}/scatter")
def scatter(request: Request, store: StoreOf, _: Viewer, set: SetId) -> Response:
    catalogue.find_set(store, set)
    return kept(request, _kept_drawing(store, set))


def _kept_drawing(store: Store, label_set_id: int) -> bytes:
    """Return the drawing as JSON. It is kept beside the columns until a result changes."""
    with store.database.reading() as connection:
        if not changed_parts(connection, label_set_id):
            head = version_of(connection, label_set_id).encode()
            stored = whole(connection, label_set_id, _NAME)
            if stored is not None and stored.startswith(head):
                return stored[len(head) :]
    store.count_changes(label_set_id)
    with store.database.reading() as connection:
        # Of the columns before they are read: a drawing may be newer than it says, and never older.
        head = version_of(connection, label_set_id).encode()
    content = orjson.dumps(drawing(store, label_set_id))
    with store.database.writing() as connection:
        keep_whole(connection, label_set_id, _NAME, head + content)
    return content


def drawing(store: Store, label_set_id: int) -> dict[str, Any]:
    """Points as whole numbers: the distance to the feature before, 100 log10 of the density, 1000 times the score.

    Or `bins`: [column, row, features], of `grid` columns and rows over the ranges of log density and of score.
    """
    found = scatter_of(store, label_set_id)
    drawn = ~np.isnan(found.score) & (found.density > 0)
    features, scores, logs = found.feature_index[drawn], found.score[drawn], np.log10(found.density[drawn])
    if not len(features):
        return {"reason": "no feature of this label set has both a score and a density"}
    answer = {"n": len(features), "decades": _decades(logs, scores)}
    if len(features) <= MOST_POINTS:
        deltas = np.diff(features, prepend=0)
        points = {"feature": deltas, "density": np.rint(logs * 100), "score": np.rint(scores * 1000)}
        return {**answer, **{name: values.astype(int).tolist() for name, values in points.items()}}
    return {**answer, **_binned(logs, scores)}


def _decades(logs: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """The same as a table: the quartiles of the scores by decade of density."""
    decade = np.floor(logs).astype(int)
    lines = []
    for d in range(int(decade.min()), int(decade.max()) + 1):
        here = scores[decade == d]
        if len(here):
            low, middle, high = np.percentile(here, [25, 50, 75]).round(3).tolist()
            lines.append(
                {"from": 10.0**d, "to": 10.0 ** (d + 1), "n": len(here), "low": low, "median": middle, "high": high}
            )
    return lines


def _binned(logs: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    x_range = (math.floor(float(logs.min())), math.ceil(float(logs.max()) + 1e-9))
    y_range = (-1.0, 1.0) if float(scores.min()) < -0.3 else (-0.3, 1.0)
    counts, _, _ = np.histogram2d(logs, np.clip(scores, *y_range), _BINS, (x_range, y_range))
    x, y = np.nonzero(counts)
    bins = np.stack([x, y, counts[x, y].astype(int)], axis=1).tolist()
    return {"grid": _BINS, "density_range": x_range, "score_range": y_range, "bins": bins}
