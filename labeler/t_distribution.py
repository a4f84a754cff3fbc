"""Quantiles of Student's t, for intervals over few documents."""

from __future__ import annotations

import math
from functools import lru_cache

from labeler.errors import InputError


@lru_cache(maxsize=256)
def t_quantile(p: float, df: int) -> float:
    """Return the quantile of Student's t with a whole number of degrees of freedom, 0.5 <= p < 1."""
    if not (0.5 <= p < 1.0 and df >= 1):
        raise InputError(f"t quantile at p={p} with {df} degrees of freedom: give 0.5 <= p < 1 and df >= 1")
    low, high = 0.0, math.pi / 2.0
    while low < (angle := (low + high) / 2.0) < high:
        if _within(angle, df) < 2.0 * p - 1.0:
            low = angle
        else:
            high = angle
    return math.sqrt(df) * math.tan(high)


def _within(angle: float, df: int) -> float:
    """Return P(|T| <= sqrt(df) * tan(angle)) by the finite series of Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    sin, cos = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = cos if odd else 1.0
    total = 0.0
    for k in range(odd, df - 1, 2):
        total += term
        term *= cos * cos * (k + 1) / (k + 2)
    return (angle + sin * total) * 2.0 / math.pi if odd else sin * total
