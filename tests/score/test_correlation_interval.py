from __future__ import annotations

import math

import numpy as np
import pytest

from labeler.score.agreement import pearson
from labeler.score.correlation_interval import correlation_interval

_N_TOKENS = 16


def _bursts(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A feature that fires in bursts in a few sequences, and a simulator that misses whole sequences."""
    tokens = (n, _N_TOKENS)
    firing = rng.random((n, 1)) < 0.4
    truth = np.where(firing & (rng.random(tokens) < 0.3), rng.lognormal(0.0, 0.8, tokens), 0.0)
    seen = rng.random((n, 1)) < 0.7
    simulated = np.where(seen, np.minimum(truth, 3.0), 0.0) + (rng.random(tokens) < 0.01) * 2.0
    return truth.ravel(), simulated.ravel(), np.repeat(np.arange(n), _N_TOKENS)


def _interval(truth, simulated, sequence, weights=None, confidence=0.95, seed=0):
    return correlation_interval(truth, simulated, sequence, weights, confidence=confidence, seed=seed)


@pytest.mark.parametrize("n", [20, 40])
def test_skewed_scores_are_covered(n):
    rng = np.random.default_rng(n)
    population = pearson(*_bursts(20_000, rng)[:2])
    intervals = [i for i in (_interval(*_bursts(n, rng)) for _ in range(400)) if i is not None]
    assert len(intervals) > 380
    covered = [low <= population <= high for low, high in intervals]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_predictions_that_never_meet_the_truth_are_not_certain_to_be_worthless():
    """Nothing varies in the sample, and another sample may well hold a chance hit."""
    truth, simulated = np.zeros((20, _N_TOKENS)), np.zeros((20, _N_TOKENS))
    truth[:8, 3], simulated[8:12, 5] = 1.0, 4.0
    low, high = _interval(truth.ravel(), simulated.ravel(), np.repeat(np.arange(20), _N_TOKENS))
    r = pearson(truth.ravel(), simulated.ravel())
    assert low < r < 0 < high
    # About the null of independent tokens, 1.96 / sqrt(320), with Student's t on 19 degrees of freedom.
    assert high - r == pytest.approx(2.09 / math.sqrt(320), rel=0.15)


def test_the_floor_counts_sequences_where_both_sides_are_constant_within_them():
    rng = np.random.default_rng(3)
    truth, simulated = (np.repeat(rng.random(30), _N_TOKENS) for _ in range(2))
    low, high = _interval(truth, simulated, np.repeat(np.arange(30), _N_TOKENS))
    assert (math.atanh(high) - math.atanh(low)) / 2 >= 2.04 / math.sqrt(30) * 0.99


def test_repeating_tokens_or_scaling_weights_adds_no_information():
    truth, simulated, sequence = _bursts(24, np.random.default_rng(1))
    once = _interval(truth, simulated, sequence)
    assert _interval(truth, simulated, sequence, np.full(len(truth), 7.0)) == pytest.approx(once)
    assert _interval(3.0 * truth + 1.0, 2.0 * simulated, sequence) == pytest.approx(once)
    # All but the floor, for which tokens vary alone within a sequence.
    assert _interval(*(np.repeat(v, 5) for v in (truth, simulated, sequence))) == pytest.approx(once, abs=0.01)


def test_more_confidence_is_wider_and_the_estimate_lies_within():
    data = _bursts(30, np.random.default_rng(2))
    narrow, wide = _interval(*data, confidence=0.8), _interval(*data, confidence=0.99)
    assert -1.0 <= wide[0] < narrow[0] < pearson(*data[:2]) < narrow[1] < wide[1] <= 1.0
    assert _interval(*data, seed=5) == _interval(*data, seed=5) != _interval(*data, seed=6)


def test_a_perfect_simulation_moves_nowhere_and_a_lone_witness_gives_no_interval():
    truth, simulated, sequence = _bursts(12, np.random.default_rng(5))
    assert _interval(truth, 2.0 * truth + 1.0, sequence) == pytest.approx((1.0, 1.0))
    alone = np.where(np.arange(len(truth)) == 1, 3.0, 0.0)
    assert _interval(alone, simulated + alone, sequence) is None
    assert _interval(truth[:_N_TOKENS], truth[:_N_TOKENS], sequence[:_N_TOKENS]) is None


def test_where_the_bootstrap_has_no_standard_errors_the_jackknife_counts_what_moves():
    """All is right but one sequence: without it the correlation is 1, so most of what is known comes from it."""
    truth, _, sequence = _bursts(20, np.random.default_rng(6))
    simulated = np.where(sequence == 0, truth + 0.2 * (np.arange(len(truth)) % 2), truth)
    low, high = _interval(truth, simulated, sequence)
    assert low < pearson(truth, simulated) < high < 1.0
