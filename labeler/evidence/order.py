"""Orders in which windows are taken until there are enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

N_DECILES = 10


def one_a_document_first(order: np.ndarray, documents: np.ndarray) -> list[int]:
    """`order` with the first window of each document before all second ones."""
    first: dict[int, int] = {}
    for i in order:
        first.setdefault(int(documents[i]), int(i))
    leading = list(first.values())
    return leading + [int(i) for i in order if first[int(documents[i])] != i]


def deciles(peaks: np.ndarray) -> np.ndarray:
    """The decile, 1 (lowest) to 10, of each window among the given ones; by rank, so that groups are equally large."""
    place = np.empty(len(peaks), dtype=np.int64)
    place[np.argsort(peaks, kind="stable")] = np.arange(len(peaks))
    return 1 + place * N_DECILES // max(len(peaks), 1)


def round_robin(groups: Sequence[np.ndarray]) -> list[int]:
    """One of each group in turn, until all are used."""
    longest = max((len(g) for g in groups), default=0)
    return [int(g[i]) for i in range(longest) for g in groups if i < len(g)]
