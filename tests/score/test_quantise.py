from __future__ import annotations

import numpy as np
import pytest

from labeler.errors import InputError
from labeler.quantise import calculate_max_activation, quantise
from tests.score.golden import golden

_GOLDEN = golden("quantise")


@pytest.mark.parametrize("case", _GOLDEN["normalize_activations"], ids=lambda c: str(c["activations"]))
def test_golden_levels(case):
    levels = quantise(case["activations"], case["max_activation"])
    assert levels.tolist() == case["out"]
    assert levels.dtype.kind == "i"


@pytest.mark.parametrize(("x", "maximum", "exact", "got"), _GOLDEN["float_floor_traps (x, M, exact, got)"])
def test_golden_floating_point_traps(x, maximum, exact, got):
    """Any other order of the same operations, or float32, gives `exact` for some of these."""
    assert quantise([x], maximum).tolist() == [got] != [exact]


def test_golden_maximum():
    case = _GOLDEN["calculate_max_activation"]
    assert calculate_max_activation(case["records"]) == case["out"]
    assert calculate_max_activation([[-1.0], [-3.0, -2.0]]) == case["all_negative"]
    assert calculate_max_activation([]) == 0.0


def test_what_cannot_be_quantised_is_refused():
    for x, maximum in (([np.nan], 1.0), ([1.0], np.inf)):
        with pytest.raises(InputError, match="NaN or infinity"):
            quantise(x, maximum)
