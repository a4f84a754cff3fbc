"""Estimate how far a score would move on other sequences. The sequence is the unit, never the token.

The tokens of a sequence share its topic, its author and the simulator's luck with it. An interval that counts them as
independent (Fisher's z on tokens) covers far less often than it says. Pearson correlations have an interval of their
own (score/correlation_interval.py).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from labeler.errors import InputError
from labeler.score.agreement import Resampled
from labeler.t_distribution import t_quantile

JACKKNIFE_UP_TO = 20  # sequences; above, the bootstrap
N_BOOTSTRAP = 1000
MIN_DEFINED = 0.95  # share of bootstrap replicates that must have a score


def score_interval(
    statistic: Resampled,
    n_sequences: int,
    *,
    confidence: float,
    seed: int,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> tuple[float, float] | None:
    """Return (low, high) around `statistic`, within `bounds`; the same seed gives the same interval.

    Up to 20 sequences it is Student's t on the jackknife, above that the percentiles of 1000 bootstrap samples. None
    for fewer than 2 sequences, and for a score that exists only by one sequence: the jackknife without it is undefined,
    or more than 5% of bootstrap samples are. Such a score has no interval, since the remaining replicates leave out the
    very sequence that matters.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence is {confidence}: choose between 0 and 1, such as 0.95")
    if n_sequences < 2:
        return None
    if n_sequences <= JACKKNIFE_UP_TO:
        return _jackknife_t(statistic, n_sequences, confidence, bounds)
    return _bootstrap(statistic, n_sequences, confidence, seed)


def _jackknife_t(
    statistic: Resampled, n: int, confidence: float, bounds: tuple[float, float]
) -> tuple[float, float] | None:
    scores = statistic(all_and_all_but_one(n))
    if np.isnan(scores).any():
        return None
    estimate, without_one = float(scores[0]), scores[1:]
    error = math.sqrt((n - 1) / n * np.square(without_one - without_one.mean()).sum())
    return _around(estimate, t_quantile((1.0 + confidence) / 2.0, n - 1) * error, bounds)


def _around(estimate: float, margin: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return estimate -+ margin, on Fisher's z scale where the score has two bounds.

    With two bounds (correlation, AUROC) the margin is carried to z = artanh by its derivative. At 20 sequences of a
    correlation of .85 this covered 89% where the plain interval covered 83%, and no less elsewhere. Replicates
    themselves are not transformed: one of exactly 1 would be infinite.
    """
    low, high = bounds
    if not math.isfinite(high - low):
        return max(low, estimate - margin), min(high, estimate + margin)
    middle, half = (low + high) / 2.0, (high - low) / 2.0
    x = (estimate - middle) / half
    slope = half * (1.0 - x * x)
    if slope < 1e-12:  # at a bound, every replicate is at it too: nothing moved
        return estimate, estimate
    z, reach = math.atanh(x), margin / slope
    return middle + half * math.tanh(z - reach), middle + half * math.tanh(z + reach)


def _bootstrap(statistic: Resampled, n: int, confidence: float, seed: int) -> tuple[float, float] | None:
    scores = statistic(draws(n, seed))
    defined = scores[~np.isnan(scores)]
    if defined.size < MIN_DEFINED * N_BOOTSTRAP:
        return None
    low, high = np.quantile(defined, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)


@lru_cache(maxsize=64)
def all_and_all_but_one(n: int) -> np.ndarray:
    """Return [1 + n, n] how often each sequence is drawn: first all once, then without each in turn."""
    drawn = np.vstack([np.ones((1, n)), 1.0 - np.eye(n)])
    drawn.flags.writeable = False
    return drawn


@lru_cache(maxsize=64)
def draws(n: int, seed: int) -> np.ndarray:
    """Return [1000, n] how often each of n sequences is drawn in each bootstrap sample, the same for every feature."""
    chosen = np.random.default_rng(seed).integers(0, n, size=(N_BOOTSTRAP, n))
    cell = chosen + n * np.arange(N_BOOTSTRAP)[:, None]
    drawn = np.bincount(cell.ravel(), minlength=N_BOOTSTRAP * n).reshape(N_BOOTSTRAP, n).astype(np.float64)
    drawn.flags.writeable = False
    return drawn
