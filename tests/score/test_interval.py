from __future__ import annotations

import math

import numpy as np
import pytest

from labeler.errors import InputError
from labeler.score.agreement import pearson, resampled_rsquared
from labeler.score.interval import score_interval
from labeler.t_distribution import t_quantile
from tests.score.resampling import resampled_pearson

_N_TOKENS = 32


@pytest.mark.parametrize(
    ("p", "df", "scipys"),
    [
        (0.975, 1, 12.706204736174694),
        (0.975, 2, 4.302652729749462),
        (0.975, 3, 3.1824463052837078),
        (0.975, 9, 2.262157162798205),
        (0.975, 19, 2.0930240544083087),
        (0.995, 4, 4.604094871349992),
        (0.95, 10, 1.8124611228116756),
        (0.75, 7, 0.7111417780817866),
        (0.9995, 6, 5.95881617881889),
    ],
)
def test_t_quantiles_are_those_of_scipy_1_17(p, df, scipys):
    assert t_quantile(p, df) == pytest.approx(scipys, rel=1e-10)


def test_the_median_of_t_is_zero_and_nonsense_is_refused():
    assert t_quantile(0.5, 5) == pytest.approx(0.0, abs=1e-12)
    for p, df in ((1.0, 5), (0.4, 5), (0.9, 0)):
        with pytest.raises(InputError, match="t quantile"):
            t_quantile(p, df)


def _sequences(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, simulation, and the sequence of each token; the simulator is as good as its luck with the sequence."""
    tokens = (n, _N_TOKENS)
    topic = rng.normal(size=(n, 1))
    truth = np.where(rng.random(tokens) < 0.3, np.abs(rng.normal(size=tokens)), 0.0)
    simulated = truth + 0.9 * topic + 0.3 * rng.normal(size=tokens)
    return truth.ravel(), simulated.ravel(), np.repeat(np.arange(n), _N_TOKENS)


def _interval(truth, simulated, sequence, confidence=0.95, seed=0):
    n = int(sequence.max()) + 1
    return score_interval(resampled_pearson(truth, simulated, sequence), n, confidence=confidence, seed=seed)


def _fisher_on_tokens(truth, simulated):
    z, reach = math.atanh(pearson(truth, simulated)), 1.96 / math.sqrt(len(truth) - 3)
    return math.tanh(z - reach), math.tanh(z + reach)


def test_intervals_over_sequences_cover_and_those_over_tokens_do_not():
    rng = np.random.default_rng(11)
    population = pearson(*_sequences(20_000, rng)[:2])
    drawn = [_sequences(20, rng) for _ in range(400)]
    by_sequence = np.mean([low <= population <= high for low, high in (_interval(*d) for d in drawn)])
    by_token = np.mean([low <= population <= high for low, high in (_fisher_on_tokens(*d[:2]) for d in drawn)])
    assert 0.92 <= by_sequence <= 0.98
    assert by_token < 0.75


def test_the_bootstrap_covers_as_well():
    rng = np.random.default_rng(12)
    population = pearson(*_sequences(20_000, rng)[:2])
    intervals = [_interval(*_sequences(30, rng)) for _ in range(200)]
    assert 0.88 <= np.mean([low <= population <= high for low, high in intervals]) <= 0.98


def test_jackknife_of_the_plain_mean_is_students_t():
    """For a mean the jackknife is the textbook interval, so the whole of it can be checked by hand."""
    values = np.array([1.0, 2.0, 4.0, 9.0])
    interval = score_interval(
        lambda drawn: drawn @ values / drawn.sum(axis=1), 4, confidence=0.95, seed=0, bounds=(-math.inf, math.inf)
    )
    margin = 3.1824463052837078 * values.std(ddof=1) / 2.0
    assert interval == pytest.approx((4.0 - margin, 4.0 + margin))


@pytest.mark.parametrize("n", [12, 40])
def test_more_confidence_is_wider_and_the_estimate_lies_within(n):
    data = _sequences(n, np.random.default_rng(1))
    narrow, wide = _interval(*data, confidence=0.8), _interval(*data, confidence=0.99)
    assert -1.0 <= wide[0] < narrow[0] < pearson(*data[:2]) < narrow[1] < wide[1] <= 1.0


def test_the_seed_decides_the_bootstrap_and_nothing_else_does():
    data = _sequences(30, np.random.default_rng(2))
    assert _interval(*data, seed=5) == _interval(*data, seed=5) != _interval(*data, seed=6)


def test_the_bootstrap_draws_whole_sequences():
    """Repeating every token within its sequence adds no information, so the interval must not shrink."""
    truth, simulated, sequence = _sequences(30, np.random.default_rng(4))
    once = _interval(truth, simulated, sequence)
    assert _interval(np.repeat(truth, 9), np.repeat(simulated, 9), np.repeat(sequence, 9)) == pytest.approx(once)


def test_a_perfect_simulation_moves_nowhere():
    truth, _, sequence = _sequences(10, np.random.default_rng(5))
    assert _interval(truth, 2.0 * truth + 1.0, sequence) == pytest.approx((1.0, 1.0))


def test_one_imperfect_sequence_among_perfect_ones_does_not_open_the_whole_range():
    truth, _, sequence = _sequences(20, np.random.default_rng(6))
    simulated = np.where(sequence == 0, truth + 0.2 * (np.arange(len(truth)) % 2), truth)
    low, high = _interval(truth, simulated, sequence)
    assert 0.9 < low < pearson(truth, simulated) < high < 1.0


@pytest.mark.parametrize("n", [8, 24])
def test_a_score_that_rests_on_one_sequence_has_no_interval(n):
    sequence = np.repeat(np.arange(n), 4)
    truth = np.zeros(4 * n)
    truth[1] = 3.0
    simulated = truth + np.arange(4 * n) % 3
    assert pearson(truth, simulated) is not None
    assert _interval(truth, simulated, sequence) is None


def test_one_sequence_has_no_interval():
    assert _interval(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 2.0]), np.zeros(3, dtype=int)) is None


def test_a_score_with_one_bound_keeps_to_it():
    truth, _, sequence = _sequences(10, np.random.default_rng(8))
    one_wrong = resampled_rsquared(truth, np.where(sequence == 0, truth + 1.0, truth), sequence)
    all_wrong = resampled_rsquared(truth, truth + 2.0 + sequence, sequence)
    low, high = score_interval(one_wrong, 10, confidence=0.95, seed=0, bounds=(-math.inf, 1.0))
    assert low < high == 1.0
    assert score_interval(all_wrong, 10, confidence=0.95, seed=0, bounds=(-math.inf, 1.0))[0] < -1.0


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_is_a_share(confidence):
    with pytest.raises(InputError, match=r"such as 0\.95"):
        score_interval(lambda drawn: drawn[:, 0], 5, confidence=confidence, seed=0)
