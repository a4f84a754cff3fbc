"""Drawings as geometry: numbers in, places on a drawing out; templates/charts.html.j2 makes them SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labeler.numbers import number
from labeler.records import HISTOGRAM_EDGES

WIDTH, HEIGHT = 352.0, 110.0
STRIP = 240.0  # width of a scale of scores
USUAL = -0.3  # its left end, below which few scores lie


@dataclass(frozen=True)
class Bar:
    x: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Histogram:
    """Bars on WIDTH x HEIGHT, standing on its lower edge, and labeled places of the x axis."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    highest: int
    words: str  # the same for those who do not see it


def density_histogram(quality: Mapping[str, Any]) -> Histogram | None:
    """Features by the logarithm of their density, as the gathering pass has counted them."""
    edges, counts = quality.get("density_log10_edges") or (), quality.get("density_features") or ()
    filled = [i for i, n in enumerate(counts) if n]
    if not filled or len(edges) != len(counts) + 1:
        return None
    first, last = filled[0], filled[-1] + 1
    ticks = [(i, f"{10.0 ** edges[i]:.0e}") for i in range(first, last + 1) if abs(edges[i] - round(edges[i])) < 1e-6]
    titles = [f"{10.0 ** edges[i]:.1e} to {10.0 ** edges[i + 1]:.1e}" for i in range(first, last)]
    return _histogram(counts[first:last], titles, [(i - first, text) for i, text in ticks], "density")


def activation_histogram(counts: Sequence[int]) -> Histogram | None:
    """Firing tokens by the size of the activation, in half octaves."""
    filled = [i for i, n in enumerate(counts) if n]
    if not filled:
        return None
    first, last = max(0, filled[0] - 1), min(len(counts), filled[-1] + 2)
    edges = (0.0, *HISTOGRAM_EDGES, math.inf)
    titles = [f"{edges[i]:.3g} to {edges[i + 1]:.3g}" for i in range(first, last)]
    every = max(1, (last - first) // 7)
    ticks = [(i - first, f"{edges[i]:.2g}") for i in range(first, last) if (i - first) % every == 0]
    return _histogram(counts[first:last], titles, ticks, "activation")


def score_histogram(counts: Sequence[int]) -> Histogram | None:
    """Scores in equal bins over [-1, 1], from the first that is filled, or 0."""
    filled = [i for i, n in enumerate(counts) if n]
    if not filled:
        return None
    step, first = 2 / len(counts), min(filled[0], len(counts) // 2)
    titles = [f"{number(-1 + i * step, 1)} to {number(-1 + (i + 1) * step, 1)}" for i in range(first, len(counts))]
    marks = [i for i in range(first, len(counts) + 1) if abs((-1 + i * step) * 2 - round((-1 + i * step) * 2)) < 1e-9]
    return _histogram(counts[first:], titles, [(i - first, number(-1 + i * step, 1)) for i in marks], "score")


def _histogram(counts: Sequence[int], titles: Sequence[str], ticks: Sequence[tuple[int, str]], what: str) -> Histogram:
    width, highest = WIDTH / len(counts), max(counts)
    bars = tuple(
        Bar(i * width + width * 0.06, width * 0.88, max(HEIGHT * n / highest, 1.0), f"{titles[i]}: {n:,}")
        for i, n in enumerate(counts)
        if n
    )
    words = f"Histogram by {what}: " + "; ".join(bar.title for bar in bars[:60])
    return Histogram(bars, tuple((i * width, text) for i, text in ticks), highest, words)


@dataclass(frozen=True)
class Scale:
    """A score among its null and its baseline, as places on one scale STRIP wide; None: there is none."""

    least: float  # the score at the left end; the right end is 1
    zero: float
    value: float | None
    low: float | None
    high: float | None
    baseline: float | None
    null: float | None  # mean score of labels of other features
    null_low: float | None  # two standard deviations around it
    null_high: float | None
    words: str


def score_scale(
    value: float | None,
    low: float | None,
    high: float | None,
    baseline: float | None = None,
    null_mean: float | None = None,
    null_z: float | None = None,
    *,
    least: float | None = None,
) -> Scale:
    """Without `least`, from -0.3, or -1 where that does not hold all. What lies below `least` is drawn at its end.

    The null's spread follows from z = (score - mean) / sd (labeler.score.null).
    """
    spread = None
    if value is not None and null_mean is not None and null_z:
        spread = abs((value - null_mean) / null_z)
    around = (None, None) if null_mean is None or spread is None else (null_mean - 2 * spread, null_mean + 2 * spread)
    if least is None:
        least = -1.0 if any(x is not None and x < USUAL for x in (value, low, baseline)) else USUAL
    begin = least

    def place(x: float | None) -> float | None:
        return None if x is None else (min(max(x, begin), 1.0) - begin) / (1 - begin) * STRIP

    if low is None or high is None:  # half an interval is none
        low = high = None
    said = [("score", value), ("interval from", low), ("to", high), ("look-up baseline", baseline), ("null", null_mean)]
    words = ", ".join(f"{name} {number(x)}" for name, x in said if x is not None) or "no score"
    zero = (0.0 - least) / (1 - least) * STRIP
    return Scale(
        least,
        zero,
        place(value),
        place(low),
        place(high),
        place(baseline),
        place(null_mean),
        place(around[0]),
        place(around[1]),
        words,
    )
