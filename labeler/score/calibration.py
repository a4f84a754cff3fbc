"""Map the simulator's 0..10 to raw activations. Optional: no linear calibration can change a Pearson correlation.

Fit on a calibration split and never on the scored tokens: fitting on them turns a correlation of -.99 into +.99. A
calibration exists only once it is fitted, so none can be applied before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from labeler.errors import InputError, MismatchError


@dataclass(frozen=True)
class LinearCalibration:
    """activation = coefficient * simulated + intercept"""

    coefficient: float
    intercept: float

    def apply(self, simulated: ArrayLike) -> np.ndarray:
        return self.coefficient * np.asarray(simulated, dtype=np.float64) + self.intercept


@dataclass(frozen=True)
class PercentileCalibration:
    """The activation at the same percentile of the calibration split, interpolated, held at both ends."""

    simulated: tuple[float, ...]  # sorted
    truth: tuple[float, ...]  # sorted

    def apply(self, simulated: ArrayLike) -> np.ndarray:
        return np.interp(np.asarray(simulated, dtype=np.float64), self.simulated, self.truth)


def fit_linear(simulated: ArrayLike, truth: ArrayLike) -> LinearCalibration:
    """Least squares truth ~ simulated, [n_tokens] each of the calibration split; the mean where that is constant."""
    s, t = _calibration_split(simulated, truth)
    centred = s - s.mean()
    spread = centred @ centred
    coefficient = float(centred @ (t - t.mean()) / spread) if spread > 0 else 0.0
    return LinearCalibration(coefficient, float(t.mean() - coefficient * s.mean()))


def fit_percentile(simulated: ArrayLike, truth: ArrayLike) -> PercentileCalibration:
    """Match the k-th lowest simulated value to the k-th lowest activation, [n_tokens] each of the calibration split."""
    s, t = _calibration_split(simulated, truth)
    return PercentileCalibration(tuple(np.sort(s).tolist()), tuple(np.sort(t).tolist()))


def _calibration_split(simulated: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    s, t = np.asarray(simulated, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if s.shape != t.shape or s.ndim != 1:
        raise MismatchError(f"calibration on {s.size} simulated and {t.size} true activations: give one for each token")
    if not s.size:
        raise InputError("calibration on no tokens: simulate the calibration split first")
    if not (np.isfinite(s).all() and np.isfinite(t).all()):
        raise InputError("the calibration split holds NaN or infinity: leave out contexts whose simulation failed")
    return s, t
