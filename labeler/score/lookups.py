"""Answer a scorer's questions with look-up labels: its baseline and its null, without a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeler.records import Label, TokenTable
from labeler.score.items import Compared, Item
from labeler.score.simulate_by_lookup import predict_all


@dataclass(frozen=True)
class Lookups:
    """The look-up label of the feature itself, where there is one, and those of other features."""

    baseline: Label | None = None
    null: tuple[Label, ...] = ()

    def strongest(self, items: Sequence[Item]) -> Compared:
        """Return the highest activation that each label predicts in each item."""
        return self._of(items, np.maximum, np.ones(len(items)))

    def mean(self, items: Sequence[Item]) -> Compared:
        """Return the mean prediction over the tokens that each item is about."""
        return self._of(items, np.add, np.array([len(tokens_of(item)) for item in items]))

    def _of(self, items: Sequence[Item], reduce: np.ufunc, divisor: np.ndarray) -> Compared:
        if not items:
            return Compared()
        lengths = [len(item.context.tokens) for item in items]
        starts = np.cumsum([0, *lengths[:-1]])
        asked = np.concatenate([start + tokens_of(item) for start, item in zip(starts, items, strict=True)])
        first = np.cumsum([0, *(len(tokens_of(item)) for item in items[:-1])])
        contexts = [item.context for item in items]

        def values(labels: Sequence[Label]) -> np.ndarray:
            predicted = predict_all([table_of(label) for label in labels], contexts)
            return np.asarray(reduce.reduceat(predicted[:, asked], first, axis=1) / divisor)

        return Compared(
            values([self.baseline])[0] if self.baseline is not None else None,
            values(self.null) if self.null else None,
        )


def tokens_of(item: Item) -> np.ndarray:
    return np.arange(len(item.context.tokens)) if item.tokens is None else np.array(item.tokens, dtype=np.int64)


def table_of(label: Label) -> TokenTable:
    if label.table is None:
        raise ValueError(f"label {label.text!r} has no look-up table")
    return label.table
