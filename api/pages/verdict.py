"""The verdict on a score in a sentence: against labels of other features, and against the token look-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labeler.numbers import number

_CHANCE = 0.05
_ALIKE = 1e-6  # numbers nearer than this differ only by rounding: 1.00 is not above 1.00


def verdict(row: Mapping[str, Any] | None) -> str | None:
    """Write the verdict on a result, a row with its `scores`, or return None where there is no label."""
    if row is None or row["label"] is None:
        return None
    if row["score"] is None:
        return f"The score is undefined: {row['score_reason'] or 'none was made'}."
    return f"{_against_null(row)} {_against_baseline(row)}"


def _against_null(row: Mapping[str, Any]) -> str:
    p, low = row["score_null_p"], row["score_low"]
    if p is None:
        if low is None or row["score_high"] is None:
            return "There is no interval and no null, so nothing says whether this is more than chance."
        return "Better than no relation at all." if low > 0 else "The interval holds 0: this may mean nothing."
    if p < _CHANCE:
        return "Predicts this feature better than labels of other features do."
    return "Predicts this feature no better than labels of other features do: it may mean nothing."


def _against_baseline(row: Mapping[str, Any]) -> str:
    baseline = row["baseline_token_lookup"]
    if row["explainer"] == "lookup":
        return "It is the token look-up, the baseline that labels in words have to beat."
    if baseline is None:
        return "There is no token look-up to compare it with."
    low, high = row["score_low"], row["score_high"]
    if low is None or high is None:
        higher = "above" if row["score"] > baseline else "below" if row["score"] < baseline else "at"
        return f"It lies {higher} the token look-up's {number(baseline)}; without an interval, that may be chance."
    if low > baseline + _ALIKE:
        return f"Beats the token look-up ({number(baseline)}) with its whole interval."
    if high < baseline - _ALIKE:
        return f"A table of tokens does better: the look-up's {number(baseline)} lies above the whole interval."
    return f"Not clearly better than a table of tokens: the look-up's {number(baseline)} lies in its interval."
