"""Histograms for the report: pure functions, in the units of the drawing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from labeler.numbers import number

WIDTH, HEIGHT = 352.0, 120.0


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """A histogram on a drawing of WIDTH x HEIGHT: bars, and labeled places on its x axis."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    highest: int
    mark: float | None = None  # place of the median


def score_chart(scores: Sequence[float]) -> Chart:
    """Count labels per 0.1 of score, from 0 to 1, or from −1 where a score is below −0.1."""
    low = -1.0 if any(s < -0.2 for s in scores) else -0.2
    n_bins = round((1 - low) * 10)
    bins = Counter(min(n_bins - 1, max(0, math.floor((s - low) * 10 + 1e-9))) for s in scores)
    titles = [f"{number(low + i / 10, 1)} to {number(low + (i + 1) / 10, 1)}" for i in range(n_bins)]
    ticks = [(t, number(t, 1 if t % 1 else 0)) for t in (-1.0, -0.5, 0.0, 0.5, 1.0) if t >= low]
    place = WIDTH / (1 - low)
    return Chart(
        _bars(bins, titles),
        tuple(((t - low) * place, text) for t, text in ticks),
        max(bins.values(), default=0),
        (median(scores) - low) * place if scores else None,
    )


def density_chart(densities: Sequence[float]) -> Chart:
    """Count the features that fired, per third of a decade of density."""
    if not densities:
        return Chart((), (), 0)
    places = [math.floor(math.log10(d) * 3 + 1e-9) for d in densities]
    first, last = min(places) // 3 * 3, -(-(max(places) + 1) // 3) * 3
    n_bins = last - first
    titles = [f"{10 ** ((first + i) / 3):.2g} to {10 ** ((first + i + 1) / 3):.2g}" for i in range(n_bins)]
    bins = Counter(min(n_bins - 1, p - first) for p in places)
    ticks = [
        ((e * 3 - first) * WIDTH / n_bins, f"{10.0**e:.6%}".rstrip("0%").rstrip(".") + "%" if e else "100%")
        for e in range(first // 3, last // 3 + 1)
    ]
    middle = (math.log10(median(densities)) * 3 - first) * WIDTH / n_bins
    return Chart(_bars(bins, titles), tuple(ticks), max(bins.values()), middle)


def _bars(bins: Mapping[int, int], titles: Sequence[str]) -> tuple[Bar, ...]:
    width, highest = WIDTH / len(titles), max(bins.values(), default=1)
    return tuple(
        Bar(i * width + 1, HEIGHT - HEIGHT * n / highest, width - 2, HEIGHT * n / highest, f"{titles[i]}: {n:,}")
        for i, n in sorted(bins.items())
        if n
    )
