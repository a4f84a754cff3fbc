"""Orders in which windows are taken until there are enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

N_DECILES = 10


def one_a_document_first(order: np.ndarray, documents: np.ndarray) -> list[int]:
    """Return `order` with the first window of each document before all second ones."""
    first: dict[int, int] = {}
    for i in order:
        first.setdefault(int(documents[i]), int(i))
    leading = list(first.values())
    return leading + [int(i) for i in order if first[int(documents[i])] != i]


def deciles(peaks: np.ndarray, n: int = N_DECILES) -> np.ndarray:
    """Return the decile of each window among the given ones, 1 (lowest) to 10, or of `n` such groups.

    Deciles go by rank, so that they are equally large.
    """
    place = np.empty(len(peaks), dtype=np.int64)
    place[np.argsort(peaks, kind="stable")] = np.arange(len(peaks))
    return 1 + place * n // max(len(peaks), 1)


def round_robin(groups: Sequence[np.ndarray]) -> list[int]:
    """Take one of each group in turn, until all are used."""
    longest = max((len(g) for g in groups), default=0)
    return [int(g[i]) for i in range(longest) for g in groups if i < len(g)]


def round_robin_of_documents(groups: Sequence[np.ndarray], documents: np.ndarray, used: Iterable[int]) -> list[int]:
    """Take one of each group in turn; windows of documents neither `used` nor taken yet come first."""
    order, seen, left = list[int](), set(used), [[int(i) for i in group] for group in groups]
    n_before = -1
    while len(order) > n_before:
        n_before = len(order)
        for group in left:
            if (fresh := next((i for i in group if int(documents[i]) not in seen), None)) is not None:
                seen.add(int(documents[fresh]))
                group.remove(fresh)
                order.append(fresh)
    return order + round_robin([np.array(group) for group in left])
