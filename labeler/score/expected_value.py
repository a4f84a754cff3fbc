"""Compute a simulator's expected answer at one token from its probabilities of the answers "0".."10"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from labeler.errors import InputError

_VALUES = {str(value): value for value in range(11)}
LOW_MASS = 1e-3


@dataclass(frozen=True)
class ExpectedValue:
    value: float | None  # 0..10; None where no alternative is a number with some probability
    numeric_mass: float  # probability of all numbers together, 0..1
    flagged: bool  # the mass is below LOW_MASS: the value rests on what the model hardly considered


def expected_value(top_logprobs: Mapping[str, float]) -> ExpectedValue:
    """Return the sum of v * p_v over the sum of p_v, for the alternatives "0".."10" (Bills et al. 2023).

    `top_logprobs` gives natural-log probabilities by token text; " 5", "07" and "11" are not numbers here. The sums are
    taken by log-sum-exp, so that probabilities too small for a float still have a mean.
    """
    numeric = {_VALUES[token]: logprob for token, logprob in top_logprobs.items() if token in _VALUES}
    if any(math.isnan(logprob) or logprob == math.inf for logprob in numeric.values()):
        raise InputError(f"log-probabilities of the numbers are {numeric}: each must be a number or -infinity")
    highest = max(numeric.values(), default=-math.inf)
    if highest == -math.inf:
        return ExpectedValue(None, 0.0, True)
    relative = {value: math.exp(logprob - highest) for value, logprob in numeric.items()}
    total = math.fsum(relative.values())
    mass = math.exp(min(0.0, highest + math.log(total)))  # rounding, or logits for log-probabilities, would pass 1
    return ExpectedValue(math.fsum(v * p for v, p in relative.items()) / total, mass, mass < LOW_MASS)
