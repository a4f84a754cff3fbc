"""Index rows of unequal length that are kept in flat arrays."""

from __future__ import annotations

import numpy as np


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the flat indices of ragged rows: starts[i], starts[i] + 1, ... counts[i] of them, for each i in turn."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)


def starts_of(counts: np.ndarray) -> np.ndarray:
    """Return [n + 1] the index at which each row begins, and at last the end of the last row."""
    out = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=out[1:])
    return out


def boundaries(keys: np.ndarray) -> np.ndarray:
    """Return the first index of each run of equal values in `keys`."""
    if len(keys) == 0:
        return np.zeros(0, dtype=np.int64)
    changed = np.empty(len(keys), dtype=bool)
    changed[0] = True
    np.not_equal(keys[1:], keys[:-1], out=changed[1:])
    return np.flatnonzero(changed)
