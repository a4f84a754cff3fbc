from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from labeler.errors import InputError, MismatchError
from labeler.score.agreement import (
    abs_dev,
    is_constant,
    pearson,
    pearson_rows,
    resampled_abs_dev,
    resampled_rsquared,
    rsquared,
)
from tests.score.golden import defined, golden
from tests.score.resampling import resampled_pearson

_CASES = {name: case for name, case in golden("scoring")["cases"].items() if "records" in case}
_MEASURES = {
    "ev_correlation_score": pearson,
    "rsquared_score": rsquared,
    "absolute_dev_explained_score": abs_dev,
}


def _agrees(ours: float | None, theirs: float | str | None) -> None:
    expected = defined(theirs)
    assert ours is None if expected is None else ours == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", _CASES)
def test_golden_scores_pooled_and_of_each_sequence(name):
    case = _CASES[name]
    truths = [r["activations"] for r in case["records"]]
    for key, measure in _MEASURES.items():
        _agrees(measure(np.concatenate(truths), np.concatenate(case["simulated"])), case["aggregate"][key])
        for truth, simulated, theirs in zip(truths, case["simulated"], case["per_sequence"], strict=True):
            _agrees(measure(truth, simulated), theirs[key])


def test_no_tokens_have_no_score():
    assert (pearson([], []), rsquared([], []), abs_dev([], [])) == (None, None, None)


def test_golden_length_mismatch_is_an_error():
    assert golden("scoring")["cases"]["I_length_mismatch"]["__raises__"] == "ValueError"
    for measure in _MEASURES.values():
        with pytest.raises(MismatchError, match="2 simulated activations for 3 true ones"):
            measure([0.0, 1.0, 2.0], [0.0, 1.0])


@pytest.mark.parametrize("case", golden("transluce")["score_fns"], ids=lambda c: str(c["pred"]))
def test_golden_correlations_of_another_library(case):
    _agrees(pearson(case["true"], case["pred"]), case["corr"])


@pytest.mark.parametrize(
    "name",
    [
        "A_same_data_as_oai_A",
        "B_ANTICORRELATED_explanation_scores_positive",
        "C_negative_activations_are_clipped",
        "D_constant_simulation",
    ],
)
def test_we_report_the_plain_correlation_and_not_one_refitted_on_the_scored_tokens(name):
    case = golden("transluce")[name]
    truth = np.concatenate(case["true_top"] + case["true_random"])
    if name.startswith("C"):
        truth = np.maximum(truth, 0.0)  # that library clips the truth before it scores
    ours = pearson(truth, np.concatenate(case["sim_top"] + case["sim_random"]))
    _agrees(ours, case["plain_pearson_pooled (for comparison)"])
    if name.startswith("B"):
        assert ours < -0.98
        assert case["get_preferred_score([valid,random_valid])"] > 0.98


def test_pooled_and_not_averaged_per_context():
    truth, simulated = [[0, 0, 1], [5, 5, 6]], [[0, 0, 1], [0, 0, 1]]
    assert np.mean([pearson(t, s) for t, s in zip(truth, simulated, strict=True)]) == pytest.approx(1.0)
    assert pearson(np.concatenate(truth), np.concatenate(simulated)) == pytest.approx(8 / math.sqrt(233 * 8))  # 0.19


@pytest.mark.parametrize("constant", [[0.1 + 0.2, 0.3, 0.3, 0.3], [1 / 3, np.float32(1 / 3), 1 / 3, 1 / 3], [0.0] * 4])
def test_a_constant_with_rounding_noise_has_no_correlation(constant):
    assert is_constant(constant)
    assert pearson(constant, [0.0, 1.0, 2.0, 4.0]) is None
    assert pearson([0.0, 1.0, 2.0, 4.0], constant) is None


def test_small_values_are_not_mistaken_for_a_constant():
    assert not is_constant([0.0, 0.0, 1e-30])
    assert pearson([0.0, 1e-30, 0.0], [0.0, 5.0, 0.0]) == pytest.approx(1.0)
    assert pearson([1000.0, 1000.1, 1000.0], [0.0, 5.0, 0.0]) == pytest.approx(1.0)


def test_a_weight_is_a_number_of_copies():
    truth, simulated, weights = [0.0, 1.0, 3.0, 0.0], [1.0, 2.0, 9.0, 4.0], [1, 2, 3, 5]
    copies = pearson(np.repeat(truth, weights), np.repeat(simulated, weights))
    assert pearson(truth, simulated, weights) == pytest.approx(copies, abs=1e-12)
    assert pearson(truth, simulated, weights) != pytest.approx(pearson(truth, simulated), abs=0.02)
    assert pearson(truth, simulated, [0, 0, 1, 0]) is None
    assert pearson(truth, simulated, [0, 0, 0, 0]) is None


@pytest.mark.parametrize(
    ("truth", "simulated", "weights", "error", "message"),
    [
        ([0.0, np.nan], [0.0, 1.0], None, InputError, "truth holds NaN"),
        ([0.0, 1.0], [0.0, np.inf], None, InputError, "simulated holds NaN or infinity"),
        ([0.0, 1.0], [0.0, 1.0], [1.0, -1.0], InputError, "weight is negative"),
        ([0.0, 1.0], [0.0, 1.0], [1.0], MismatchError, "1 weights for 2 tokens"),
        ([[0.0, 1.0]], [[0.0, 1.0]], None, MismatchError, "2 dimensions"),
    ],
)
def test_input_that_has_no_score_is_refused_by_name(truth, simulated, weights, error, message):
    with pytest.raises(error, match=message):
        pearson(truth, simulated, weights)


_activations = arrays(np.float64, 12, elements=st.integers(-50, 50).map(lambda i: i / 4))


@settings(max_examples=60, deadline=None)
@given(_activations, _activations, st.floats(0.01, 100), st.floats(-100, 100))
def test_pearson_is_numpys_and_ignores_units(truth, simulated, scale, offset):
    assume(np.ptp(truth) > 0 and np.ptp(simulated) > 0)
    r = pearson(truth, simulated)
    assert r == pytest.approx(np.corrcoef(truth, simulated)[0, 1], abs=1e-9)
    assert pearson(truth * scale + offset, simulated) == pytest.approx(r, abs=1e-9)
    assert pearson(-truth, simulated) == pytest.approx(-r, abs=1e-9)


def test_rows_leave_out_the_tokens_that_have_no_prediction():
    truth = np.array([0.0, 1.0, 3.0, 0.0, 2.0])
    rows = np.array([[1, 2, 9, 4, 0], [1, np.nan, 9, 4, np.nan], [np.nan] * 5, [2.0] * 5])
    weights = np.array([1.0, 2.0, 1.0, 3.0, 1.0])
    r = pearson_rows(truth, rows, weights)
    assert r[0] == pytest.approx(pearson(truth, rows[0], weights), abs=1e-12)
    kept = [0, 2, 3]
    assert r[1] == pytest.approx(pearson(truth[kept], rows[1, kept], weights[kept]), abs=1e-12)
    assert np.isnan(r[2:]).all()


def test_resampled_scores_are_the_scores_of_the_drawn_sequences():
    rng = np.random.default_rng(3)
    truth = np.maximum(rng.normal(size=60) - 0.5, 0.0) + 40.0
    simulated = truth + rng.normal(size=60)
    weights = rng.integers(1, 5, size=60).astype(float)
    sequence = np.repeat(np.arange(6), 10)
    drawn = np.array([[1, 1, 1, 1, 1, 1], [0, 2, 1, 0, 1, 2], [3, 0, 0, 3, 0, 0]])
    for n, times in enumerate(drawn):
        tokens = np.repeat(np.arange(60), times[sequence])
        t, s, w = truth[tokens], simulated[tokens], weights[tokens]
        plain = resampled_pearson(truth, simulated, sequence)(drawn)[n]
        assert plain == pytest.approx(pearson(t, s), abs=1e-10)
        weighted = resampled_pearson(truth, simulated, sequence, weights)(drawn)[n]
        assert weighted == pytest.approx(pearson(t, s, w), abs=1e-10)
        assert resampled_rsquared(truth, simulated, sequence)(drawn)[n] == pytest.approx(rsquared(t, s), abs=1e-12)
        assert resampled_abs_dev(truth, simulated, sequence)(drawn)[n] == pytest.approx(abs_dev(t, s), abs=1e-12)


def test_a_resample_without_variance_is_undefined():
    truth = np.array([0.0, 3.0, 0.0, 0.0, 0.0, 0.0])
    simulated = np.array([1.0, 8.0, 0.0, 1.0, 2.0, 0.0])
    sequence = np.array([0, 0, 1, 1, 2, 2])
    without_the_firing_one = np.array([[0.0, 1.0, 1.0]])
    assert np.isnan(resampled_pearson(truth, simulated, sequence)(without_the_firing_one)).all()
    assert np.isnan(resampled_rsquared(truth, simulated, sequence)(without_the_firing_one)).all()
    # The others lie at the very mean of all tokens: rounding must not pass for variance there either.
    flat = np.array([0.1, 0.5, 0.3, 0.1 + 0.2, 0.3, 0.1 + 0.2])
    assert np.isnan(resampled_pearson(flat, simulated, sequence)(without_the_firing_one)).all()
