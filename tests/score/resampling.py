"""Pearson of sequences drawn again, as the intervals of scores compute it."""

from __future__ import annotations

import numpy as np

from labeler.score.agreement import Resampled, correlation_of_sums, sequence_sums


def resampled_pearson(
    truth: np.ndarray, simulated: np.ndarray, sequence: np.ndarray, weights: np.ndarray | None = None
) -> Resampled:
    sums = sequence_sums(truth, simulated, sequence, weights)
    return lambda drawn: correlation_of_sums(drawn @ sums)
