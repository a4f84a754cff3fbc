"""Estimate how far a pooled correlation would move on other documents: bootstrap-t on Fisher's z scale, by document.

A pooled correlation is skewed, and its standard error moves with it: a few strong windows decide both. On planted
features (benchmarks/validity.py), intervals that said 95% covered fewer true scores: the jackknife's t 84-92%, the
bootstrap's percentiles 79-92%. Two things correct that:

- every bootstrap sample is divided by its own standard error (bootstrap-t; Efron 1981, Hall 1988), taken from the
  influence of each document on the correlation (the infinitesimal jackknife);
- where prediction and truth never met in the sample, nothing varies and the interval would close around an accident.
  It is never narrower than the spread that predictions which have nothing to do with the truth would show.

The interval covers the score that the same rule of choosing contexts would give on ever more documents of the same
kind. For the weighted score, that is the correlation over all windows of the corpus. For a score on TOP and RANDOM
contexts, it is the correlation over a mixture. Half of it are windows drawn uniformly from all; half are from the share
of highest windows that TOP is of this corpus (10 of so many). A larger corpus has higher TOP windows, and another
score.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from labeler.score import agreement
from labeler.score.interval import all_and_all_but_one, draws
from labeler.t_distribution import t_quantile

_MIN_STUDENTISED = 0.9  # share of bootstrap samples with a correlation and a standard error
_AT_THE_BOUND = 1e-12  # 1 - r^2 below which a correlation is 1 or -1


def correlation_interval(
    truth: ArrayLike,
    simulated: ArrayLike,
    sequence: np.ndarray,
    weights: ArrayLike | None = None,
    *,
    confidence: float,
    seed: int,
) -> tuple[float, float] | None:
    """Return (low, high) around `agreement.pearson`; `sequence` [n_tokens] numbers the sequence of each token from 0.

    None for fewer than 2 sequences, and for a correlation that exists only by one of them. The same seed gives the
    same interval.
    """
    sums = agreement.sequence_sums(truth, simulated, sequence, weights)
    n = len(sums)
    if n < 2:
        return None
    estimate, *without_one = agreement.correlation_of_sums(all_and_all_but_one(n) @ sums).tolist()
    if math.isnan(estimate) or any(map(math.isnan, without_one)):
        return None
    if 1.0 - estimate**2 < _AT_THE_BOUND:
        return estimate, estimate
    low, high = _studentised(sums, confidence, seed) or _jackknife(estimate, np.array(without_one), confidence)
    least = t_quantile((1.0 + confidence) / 2.0, n - 1) * _error_if_unrelated(truth, simulated, sequence, weights)
    z = math.atanh(estimate)
    return math.tanh(z + min(low, -least)), math.tanh(z + max(high, least))


def _studentised(sums: np.ndarray, confidence: float, seed: int) -> tuple[float, float] | None:
    """Return the margins below and above, on the z scale; None where too few bootstrap samples have a standard error."""
    n = len(sums)
    z, error = _z_and_error(np.ones((1, n)), sums)
    replicates, errors = _z_and_error(draws(n, seed), sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (replicates - z) / errors
    t = t[np.isfinite(t)]
    if t.size < _MIN_STUDENTISED * len(replicates):
        return None
    low, high = np.quantile(t, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(-high * error[0]), float(-low * error[0])


def _z_and_error(drawn: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Fisher's z and its standard error for each way of drawing sequences, [n_replicates, n] -> [n_replicates]
    each.

    The influence of a sequence is the mean over tokens of  t s - r (t^2 + s^2) / 2  in standardized t and s, times its
    share: linear in the sequence's six sums.
    """
    n = drawn.shape[1]
    total = drawn @ sums
    r = agreement.correlation_of_sums(total)
    # At 1 or -1 the error is rounding noise, and would differ from one processor to the next.
    r = np.where(1.0 - r * r < _AT_THE_BOUND, np.nan, r)
    with np.errstate(divide="ignore", invalid="ignore"):
        t, s = total[:, 1] / total[:, 0], total[:, 2] / total[:, 0]
        tt, ss = 1.0 / (total[:, 3] / total[:, 0] - t * t), 1.0 / (total[:, 4] / total[:, 0] - s * s)
        ts = np.sqrt(tt * ss)
        of_sums = np.stack(
            [
                t * s * ts - r / 2.0 * (t * t * tt + s * s * ss),
                r * t * tt - s * ts,
                r * s * ss - t * ts,
                -r / 2.0 * tt,
                -r / 2.0 * ss,
                ts,
            ],
            axis=1,
        )
        influence = (of_sums / total[:, :1]) @ sums.T
        variance = n / (n - 1) * (drawn * influence**2).sum(axis=1)
        return np.arctanh(r), np.sqrt(variance) / (1.0 - r * r)


def _jackknife(estimate: float, without_one: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the margins from leaving out each sequence, with as many degrees of freedom as sequences that move the
    score.

    That number is (sum of u)^2 / (sum of u^2), with u the squares that the variance is made of. Where one sequence
    makes all of it, the variance is known no better than from two.
    """
    n = len(without_one)
    squares = np.square(without_one - without_one.mean())
    if not squares.any():
        return 0.0, 0.0
    n_moving = squares.sum() ** 2 / np.square(squares).sum()
    error = math.sqrt((n - 1) / n * squares.sum()) / (1.0 - estimate**2)
    margin = t_quantile((1.0 + confidence) / 2.0, max(1, round(n_moving))) * error
    return -margin, margin


def _error_if_unrelated(
    truth: ArrayLike, simulated: ArrayLike, sequence: np.ndarray, weights: ArrayLike | None
) -> float:
    """Return the standard deviation of r if the predictions of each sequence had been made for another one.

    Predictions then are a sequence's level plus what varies within it, both independent of the truth, so that
    Var(r) = sum over sequences of  A^2 between + (1 - between) * sum of (w t)^2,  over (sum of w)^2, with t
    standardized, A the sum of w t in the sequence, and `between` the share of the predictions' variance that lies
    between sequences. Without weights and with t and s alike within sequences that is 1 / n_tokens; with both
    constant within them 1 / n_sequences.
    """
    w = np.ones(len(sequence)) if weights is None else np.asarray(weights, dtype=np.float64)
    t, s = (agreement.standardised(np.asarray(v, dtype=np.float64), w) for v in (truth, simulated))
    size, of_t, of_s = (np.bincount(sequence, column) for column in (w, w * t, w * s))
    present = size > 0
    between = float((of_s[present] ** 2 / size[present]).sum() / size.sum())
    variance = (of_t**2).sum() * between + (1.0 - between) * np.square(w * t).sum()
    return float(np.sqrt(variance) / size.sum())
