"""Write activations as integers 0..10, for prompts only: truth is never quantized before it is scored."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from labeler.errors import InputError

LEVELS = 10


def quantise(activations: ArrayLike, maximum: float) -> np.ndarray:
    """Return min(10, floor(10 * relu(x) / maximum)), [n] raw activations -> [n] integers; zeros where maximum <= 0.

    It is computed in float64 and in this order, like Bills et al. 2023: x = 0.03 of a maximum of 0.1 gives 2, not 3.
    """
    x = np.asarray(activations, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(maximum)):
        raise InputError("activations to quantise hold NaN or infinity: check the subject's precision")
    if maximum <= 0:
        return np.zeros(x.shape, dtype=np.int64)
    return np.minimum(LEVELS, np.floor(LEVELS * np.maximum(x, 0.0) / maximum)).astype(np.int64)


def calculate_max_activation(activations: Iterable[Iterable[float]]) -> float:
    """Return the highest activation of all contexts that one prompt shows; 0.0 where none is positive."""
    return max(0.0, max((float(x) for context in activations for x in context), default=0.0))
