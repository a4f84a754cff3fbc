"""Measure how well numbers tell positives from negatives: AUROC, average precision, balanced accuracy.

Ties are half a win. All three count how many positives and negatives have each distinct score. That is exact with ties,
and it lets whole sequences be drawn again for an interval.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from labeler.errors import InputError, MismatchError
from labeler.score.agreement import Resampled


def auroc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float | None:
    """Return the probability that a positive scores above a negative, ties half (Mann-Whitney); None where a class is
    empty.
    """
    return _once(resampled_auroc, positive_scores, negative_scores)


def average_precision(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float | None:
    """Return the sum of (recall gained) * precision over falling thresholds; None where a class is empty.

    By chance it is the share of positives, not 0.5.
    """
    return _once(resampled_average_precision, positive_scores, negative_scores)


def balanced_accuracy(truth: ArrayLike, predicted: ArrayLike) -> float | None:
    """Return the mean share of positives and negatives recognized, booleans [n] each; None where a class is empty."""
    t, s = np.asarray(truth, dtype=bool), np.asarray(predicted, dtype=bool)
    if t.shape != s.shape or t.ndim != 1:
        raise MismatchError(f"{s.size} predictions for {t.size} true answers: leave unanswered ones out of both")
    if t.all() or not t.any():
        return None
    return float((s[t].mean() + (~s[~t]).mean()) / 2.0)


def resampled_auroc(positive: np.ndarray, scores: np.ndarray, sequence: np.ndarray) -> Resampled:
    """Return AUROC as a function of how often each sequence is drawn.

    Items are tokens or contexts: booleans, scores and the number of their sequence, [n_items] each. The matrix of wins
    of each sequence's positives over each sequence's negatives, [n_sequences, n_sequences], holds all that is needed.
    """
    positives, negatives = _by_sequence_and_score(positive, scores, sequence)
    wins = positives @ (np.cumsum(negatives, axis=1) - negatives / 2.0).T
    n_positive, n_negative = positives.sum(axis=1), negatives.sum(axis=1)

    def replicates(drawn: np.ndarray) -> np.ndarray:
        won = ((drawn @ wins) * drawn).sum(axis=1)
        pairs = (drawn @ n_positive) * (drawn @ n_negative)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(pairs > 0, won / pairs, np.nan)

    return replicates


def resampled_average_precision(positive: np.ndarray, scores: np.ndarray, sequence: np.ndarray) -> Resampled:
    """Return average precision as a function of how often each sequence is drawn; items as for `resampled_auroc`."""
    positives, negatives = _by_sequence_and_score(positive, scores, sequence)
    n_negative = negatives.sum(axis=1)
    # Recall is gained only at the scores that some positive has: the counts above each of them are enough.
    gains = positives.any(axis=0)
    found = positives[:, ::-1].cumsum(axis=1)[:, ::-1][:, gains]
    called = found + negatives[:, ::-1].cumsum(axis=1)[:, ::-1][:, gains]
    gained = positives[:, gains]
    n_positive = positives.sum(axis=1)

    def replicates(drawn: np.ndarray) -> np.ndarray:
        of = drawn @ n_positive
        n_called = drawn @ called
        with np.errstate(divide="ignore", invalid="ignore"):
            precision = np.where(n_called > 0, (drawn @ found) / n_called, 0.0)
            value = ((drawn @ gained) * precision).sum(axis=1) / of
        return np.where((of > 0) & (drawn @ n_negative > 0), value, np.nan)

    return replicates


def _once(
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], Resampled], positives: ArrayLike, negatives: ArrayLike
) -> float | None:
    """Return the measure of items that are all of one sequence, drawn once."""
    first, second = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    if not (first.size and second.size):
        return None
    positive = np.arange(first.size + second.size) < first.size
    one_sequence = np.zeros(positive.size, dtype=np.int64)
    return float(resampled(positive, np.concatenate([first, second]), one_sequence)(np.ones((1, 1)))[0])


def _by_sequence_and_score(
    positive: np.ndarray, scores: np.ndarray, sequence: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if np.isnan(scores).any():
        raise InputError("a score to rank is NaN: leave out what has no score")
    distinct, rank = np.unique(scores, return_inverse=True)
    shape = (int(sequence.max()) + 1, distinct.size)
    cell = sequence * shape[1] + rank
    size = shape[0] * shape[1]
    positives = np.bincount(cell[positive], minlength=size).reshape(shape).astype(np.float64)
    return positives, np.bincount(cell, minlength=size).reshape(shape) - positives
