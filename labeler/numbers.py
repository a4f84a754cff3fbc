"""Write numbers for people: counts, shares and scores, with a dash where there is none."""

import math


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
