"""Score against density, a point for each feature of a label set. Read from the columns, for plots of a million
features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labeler.store.base.columns import bring_up_to_date, read_columns
from labeler.store.base.store import Store


@dataclass(frozen=True)
class Scatter:
    """The points of the features with a result: arrays of equal length in the order of features. NaN: undefined."""

    feature_index: np.ndarray  # int32
    score: np.ndarray
    low: np.ndarray  # of the score's interval
    high: np.ndarray
    density: np.ndarray  # share of tokens
    state: np.ndarray  # uint8: its place in labeler.store.base.columns.STATES


def scatter_of(store: Store, label_set_id: int) -> Scatter:
    """Return the points of the present results. Raises NotFoundError."""
    store.label_set(label_set_id)
    bring_up_to_date(store.database, label_set_id)
    with store.database.reading() as connection:
        names = ("feature_index", "score", "score_low", "score_high", "density", "state")
        arrays = read_columns(connection, label_set_id, names).arrays
    return Scatter(*(arrays[name] for name in names))
