"""Measure how well a simulation agrees with the truth over tokens: Pearson, and two measures of Bills et al. 2023.

Truth is in raw units of the SAE, a simulation on 0..10. Arrays are [n_tokens], pooled over every token of every
sequence, in float64. An undefined score is None; only inside arrays of many scores is it NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from labeler.errors import InputError, MismatchError

# How often each sequence is drawn, [n_replicates, n_sequences] -> the score of each replicate, NaN where undefined.
Resampled = Callable[[np.ndarray], np.ndarray]

# Values whose variance is below this share of their mean square are one value and rounding noise: 1e-12 is a standard
# deviation of 1e-6 of the value, ten times the rounding of float32.
CONSTANT = 1e-12


def pearson(truth: ArrayLike, simulated: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """Return the correlation over tokens, [n_tokens] each; None for fewer than 2 tokens or a constant side.

    `weights` are per token: those of its context, N_h / n_h for a context drawn from stratum h. With them the result
    estimates the correlation over the whole corpus. Raises MismatchError and InputError.
    """
    t, s = _pair(truth, simulated)
    value = pearson_rows(t, s[None], weights)[0]
    return None if np.isnan(value) else float(value)


def pearson_rows(truth: ArrayLike, simulated: np.ndarray, weights: ArrayLike | None = None) -> np.ndarray:
    """Correlate many simulations with one truth, [n_simulations, n_tokens] -> [n_simulations].

    A NaN in `simulated` is a token without a prediction: it is left out of that row. A row without a score is NaN.
    """
    t = _floats("truth", truth)
    if simulated.shape[1:] != t.shape:
        raise MismatchError(f"simulations of {simulated.shape[1]} tokens for {t.size} true activations: give as many")
    w = np.ones(t.size) if weights is None else _weights(weights, t.size)
    present = np.isfinite(simulated)
    complete = present.all(axis=1)
    if complete.all():
        return _correlations(t, simulated, w)
    rows = np.empty(len(simulated))
    rows[complete] = _correlations(t, simulated[complete], w)
    for i in np.flatnonzero(~complete):
        kept = present[i]
        rows[i] = _correlations(t[kept], simulated[i : i + 1, kept], w[kept])[0]
    return rows


def _correlations(t: np.ndarray, s: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return weighted Pearson of [n_tokens] with each row of [n_simulations, n_tokens], in two passes; NaN where
    undefined.
    """
    if not w.any():
        return np.full(len(s), np.nan)
    w = w / w.sum()
    t_off, s_off = t - w @ t, s - (s @ w)[:, None]
    t_var, s_var = w @ t_off**2, s_off**2 @ w
    undefined = (s_var <= CONSTANT * (s**2 @ w)) | (t_var <= CONSTANT * (w @ t**2))
    with np.errstate(divide="ignore", invalid="ignore"):  # what is undefined divides by about 0
        r = s_off @ (w * t_off) / np.sqrt(t_var * s_var)
    return np.where(undefined, np.nan, np.clip(r, -1.0, 1.0))


def rsquared(truth: ArrayLike, simulated: ArrayLike) -> float | None:
    """Return 1 - mean((t - s)^2) / mean(t^2), uncentered (Bills et al. 2023); None where the truth is all zeros."""
    t, s = _pair(truth, simulated)
    return _one_minus_ratio(np.square(t - s).sum(), np.square(t).sum())


def abs_dev(truth: ArrayLike, simulated: ArrayLike) -> float | None:
    """Return 1 - mean|t - s| / mean|t|, uncentered (Bills et al. 2023); None where the truth is all zeros."""
    t, s = _pair(truth, simulated)
    return _one_minus_ratio(np.abs(t - s).sum(), np.abs(t).sum())


def is_constant(values: ArrayLike, weights: ArrayLike | None = None) -> bool:
    """Return True if values are one value up to rounding, so that no correlation with them exists.

    Fewer than 2 always are.
    """
    x = _floats("values", values)
    w = np.ones(x.size) if weights is None else _weights(weights, x.size)
    if np.count_nonzero(w) < 2:
        return True
    w = w / w.sum()
    return bool(w @ np.square(x - w @ x) <= CONSTANT * (w @ np.square(x)))


def sequence_sums(
    truth: ArrayLike, simulated: ArrayLike, sequence: np.ndarray, weights: ArrayLike | None = None
) -> np.ndarray:
    """Return [n_sequences, 6] the weighted sums of 1, t, s, t^2, s^2 and t s of standardized t and s.

    `sequence` [n_tokens] numbers the sequence of each token from 0.
    """
    t, s = _pair(truth, simulated)
    w = np.ones(t.size) if weights is None else _weights(weights, t.size)
    # Centered and scaled over all sequences, sums of squares stay exact enough to subtract.
    t, s = standardised(t, w), standardised(s, w)
    return _per_sequence(sequence, w, w * t, w * s, w * t * t, w * s * s, w * t * s)


def correlation_of_sums(sums: np.ndarray) -> np.ndarray:
    """Return Pearson of each row of such sums, [n, 6] -> [n]; NaN where undefined."""
    n, t, s, tt, ss, ts = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        t, s, tt, ss, ts = t / n, s / n, tt / n, ss / n, ts / n
        t_var, s_var = tt - t * t, ss - s * s
        # 1e-18 of the variance over all sequences: a constant that happens to lie at the common mean.
        undefined = ~((t_var > CONSTANT * tt + 1e-18) & (s_var > CONSTANT * ss + 1e-18))
        r = (ts - t * s) / np.sqrt(t_var * s_var)
    return np.where(undefined, np.nan, np.clip(r, -1.0, 1.0))


def resampled_rsquared(truth: ArrayLike, simulated: ArrayLike, sequence: np.ndarray) -> Resampled:
    t, s = _pair(truth, simulated)
    return _resampled_ratio(_per_sequence(sequence, np.square(t - s), np.square(t)))


def resampled_abs_dev(truth: ArrayLike, simulated: ArrayLike, sequence: np.ndarray) -> Resampled:
    t, s = _pair(truth, simulated)
    return _resampled_ratio(_per_sequence(sequence, np.abs(t - s), np.abs(t)))


def _resampled_ratio(sums: np.ndarray) -> Resampled:
    def replicates(drawn: np.ndarray) -> np.ndarray:
        error, size = (drawn @ sums).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(size > 0, 1.0 - error / size, np.nan)

    return replicates


def _one_minus_ratio(error: float, size: float) -> float | None:
    return float(1.0 - error / size) if size > 0 else None


def _per_sequence(sequence: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Add up the tokens of each sequence, [n_tokens] columns -> [n_sequences, n_columns]."""
    return np.stack([np.bincount(sequence, column) for column in columns], axis=1)


def standardised(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Scale values [n] to weighted mean 0 and weighted variance 1; zeros where they are constant."""
    share = weights / weights.sum()
    centred = values - share @ values
    spread = np.sqrt(share @ np.square(centred))
    return np.asarray(centred / spread if spread > 0 else centred)


def _pair(truth: ArrayLike, simulated: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    t, s = _floats("truth", truth), _floats("simulated", simulated)
    if t.size != s.size:
        raise MismatchError(f"{s.size} simulated activations for {t.size} true ones: give one for each token")
    return t, s


def _weights(weights: ArrayLike, n_tokens: int) -> np.ndarray:
    w = _floats("weights", weights)
    if w.size != n_tokens:
        raise MismatchError(f"{w.size} weights for {n_tokens} tokens: give each token the weight of its context")
    if (w < 0).any():
        raise InputError("a weight is negative: a weight is how many windows a context stands for, 0 or more")
    return w


def _floats(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise MismatchError(f"{name} has {array.ndim} dimensions: concatenate the tokens of all sequences into one")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity: leave out what could not be measured or simulated")
    return array
