"""What answers are worth: shares, balanced accuracy and their intervals, against numbers worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from labeler.records import Source
from labeler.score.items import Item, Measure
from tests.score.knowing import context


def items(n_positive: int, n_negative: int) -> list[Item]:
    positives = [Item(context("Q", i), "Q") for i in range(n_positive)]
    return [*positives, *(Item(context("x", 1000 + i, Source.RANDOM), "x", "random") for i in range(n_negative))]


def test_all_right_is_not_certain() -> None:
    """Wilson's lower bound for 20 of 20 is 20 / (20 + 1.96^2) = 0.8389."""
    asked = items(20, 20)
    recall = Measure().recall("r", [(i, True) for i in asked[:20]])
    assert (recall.value, recall.low, recall.high) == (1.0, pytest.approx(0.8389, abs=1e-4), 1.0)
    accuracy = Measure().accuracy("a", asked, [i.positive for i in asked])
    assert (accuracy.value, accuracy.low, accuracy.high) == (1.0, pytest.approx(1 - 0.1611 / 2**0.5, abs=1e-4), 1.0)


def test_wilsons_interval_as_published() -> None:
    """81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I, method 3)."""
    asked = [(i, k < 81) for k, i in enumerate(items(263, 0))]
    recall = Measure().recall("r", asked)
    assert (recall.low, recall.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


def test_newcombes_interval_as_published() -> None:
    """56/70 - 48/80: 0.0524 to 0.3339 (Newcombe 1998, table II, method 10); balanced accuracy is that over 2, and a half."""
    asked = items(70, 80)
    yes = [k < 56 for k in range(70)] + [k < 48 for k in range(80)]
    accuracy = Measure().accuracy("a", asked, yes)
    assert accuracy.value == pytest.approx((0.8 + 0.4) / 2)
    assert accuracy.low == pytest.approx(0.5 + 0.0524 / 2, abs=1e-4)
    assert accuracy.high == pytest.approx(0.5 + 0.3339 / 2, abs=1e-4)


@pytest.mark.parametrize(("right", "n"), [((0.95, 0.9), 20), ((0.8, 0.6), 10), ((0.5, 0.5), 20)])
def test_intervals_cover_about_what_they_say(right: tuple[float, float], n: int) -> None:
    rng, asked = random.Random(0), items(n, n)
    covered = 0
    for _ in range(500):
        yes = [(rng.random() < right[0]) if i.positive else (rng.random() >= right[1]) for i in asked]
        score = Measure().accuracy("a", asked, yes)
        assert score.low is not None
        assert score.high is not None
        covered += score.low <= sum(right) / 2 <= score.high
    assert 0.91 <= covered / 500 <= 0.985  # 92% where nearly all answers are right


def test_contexts_of_one_document_count_as_one_answer() -> None:
    asked = items(20, 20)
    yes: Sequence[bool] = [k % 5 != 0 for k in range(40)]
    together = [replace(i, context=replace(i.context, document=k % 4)) for k, i in enumerate(asked)]
    apart, one = (Measure().accuracy("a", i, yes) for i in (asked, together))
    assert apart.value == one.value
    assert (one.high or 0) - (one.low or 0) > 1.5 * ((apart.high or 0) - (apart.low or 0))


def test_a_context_without_an_answer_is_neither_right_nor_wrong() -> None:
    asked = items(4, 4)
    score = Measure().accuracy("a", asked, [True, None, None, True, False, False, True, None])
    assert (score.value, score.n, score.n_failed) == (pytest.approx((1 + 2 / 3) / 2), 5, 3)


@pytest.mark.parametrize(
    ("yes", "reason"),
    [
        ([None] * 4, "every request failed"),
        ([True, True, None, None], "no negative among the contexts that got an answer"),
        ([None, None, True, True], "no positive among the contexts that got an answer"),
    ],
)
def test_undefined_has_a_reason(yes: list[bool | None], reason: str) -> None:
    score = Measure().accuracy("a", items(2, 2), yes)
    assert (score.value, score.reason) == (None, reason)
