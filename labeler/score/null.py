"""Compare a score with the null: the same contexts, scored with the labels of other features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeler.errors import InputError

MIN_NULL = 20


@dataclass(frozen=True)
class NullComparison:
    z: float | None  # standard deviations of the null above its mean
    p: float | None  # how often a label of another feature scores as well
    n: int  # labels in the null that have a score
    mean: float | None  # of their scores: where "no information" lies for this feature
    reason: str | None = None  # why z or p is missing


def null_z_and_p(score: float | None, null_scores: Sequence[float | None]) -> NullComparison:
    """Return z and p of a score against the null.

    z = (score - mean) / sd of the null, and p = (1 + number of null scores >= score) / (1 + n).

    Undefined null scores are left out. The smallest p that n null labels can show is 1 / (1 + n).
    """
    null = np.array([s for s in null_scores if s is not None], dtype=np.float64)
    if not np.isfinite(null).all():
        raise InputError("a null score is NaN or infinite: give None where a score is undefined")
    n = null.size
    mean = float(null.mean()) if n else None
    if score is None:
        return NullComparison(None, None, n, mean, "the score itself is undefined")
    if n < MIN_NULL:
        reason = f"only {n} labels of other features have a score here; at least {MIN_NULL} are needed"
        return NullComparison(None, None, n, mean, reason)
    p = float((1 + np.count_nonzero(null >= score)) / (1 + n))
    spread = float(null.std(ddof=1))
    if spread <= 1e-12:
        return NullComparison(None, p, n, mean, "all labels of other features score the same here")
    return NullComparison(float((score - null.mean()) / spread), p, n, mean)


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Return a false-discovery rate for each p-value of a label set (Benjamini and Hochberg 1995); None stays None.

    q of the k-th lowest of m p-values is the least of p_j * m / j over j >= k. It is the expected share of chance
    findings among the labels that are at least as good. Undefined p-values are not among the m.
    """
    p = np.array([np.nan if value is None else value for value in p_values], dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    if ((p[tested] < 0) | (p[tested] > 1)).any():
        raise InputError("a p-value is outside 0..1: give None where there is none")
    highest_first = tested[np.argsort(-p[tested], kind="stable")]
    m = tested.size
    q = np.minimum.accumulate(p[highest_first] * m / np.arange(m, 0, -1))
    rates: list[float | None] = [None] * len(p_values)
    for index, rate in zip(highest_first.tolist(), q.tolist(), strict=True):
        rates[index] = rate
    return rates
