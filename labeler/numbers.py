"""Write numbers for people: counts, shares, scores and ranges, with a dash where there is none."""

import math
from collections.abc import Sequence


def count(n: int) -> str:
    return f"{n:,}"


def share(x: float | None) -> str:
    """Write a share in percent, or `—` for None."""
    if x is None:
        return "—"
    return (f"{x:.0%}" if 0.1 <= x <= 0.9 else f"{x:.1%}").replace(".0%", "%")


def number(x: float | None, digits: int = 2) -> str:
    """Write a number with its digits, or a dash for None."""
    if x is None or not math.isfinite(x):
        return "—"
    text = f"{x:.{digits}f}"
    return text.replace("-", "−" if float(text) else "")  # and no minus before a zero


def ranges(numbers: Sequence[int]) -> str:
    """Write sorted whole numbers as `0-3, 7`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
