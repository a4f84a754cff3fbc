"""Numbers, times and states as the pages say them: the filters of the templates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from labeler.headline import headline
from labeler.names import sae_name
from labeler.numbers import count, number, share

STATE_WORDS = {
    "labeled": "has a label",
    "silent": "never fired in the corpus",
    "rare": "fired too rarely to be explained and tested",
    "failed": "no usable answer came",
    "pending": "not tried yet",
}
SOURCE_WORDS = {
    "top": "the windows in which the feature fires most, one a sequence",
    "sampled": "drawn evenly over the deciles of all windows in which the feature fires",
    "random": "drawn from all windows, whether the feature fires or not",
    "hard": "windows that look alike and in which the feature is silent",
}


def density(x: float | None) -> str:
    """A share of tokens, in per cent with two digits that count."""
    if x is None:
        return "—"
    if x == 0:
        return "0"
    percent = x * 100
    digits = max(0, 1 - math.floor(math.log10(percent)))
    return f"{percent:.{min(digits, 7)}f}%"


def short(n: int | float | None) -> str:
    """A count in little room: 1,234, 12.3k, 4.57M."""
    if n is None:
        return "—"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(n) >= size:
            return f"{n / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{n:,.0f}"


def money(usd: float | None) -> str:
    """Dollars; what is unknown is not zero."""
    if usd is None:
        return "price unknown"
    if usd == 0:
        return "$0"
    return f"${usd:,.2f}" if usd >= 0.01 else f"${usd:.4f}"


def activation(x: float | None) -> str:
    """An activation in raw SAE units, with three digits."""
    return "—" if x is None else f"{x:.3g}"


def signed(x: float | None, digits: int = 2) -> str:
    return number(x, digits) if x is None or round(x, digits) <= 0 else "+" + number(x, digits)


def interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{number(low)} to {number(high)}"


def when(time: datetime | str | None) -> Markup:
    """A time that a script shows in the reader's zone."""
    if time is None:
        return Markup("—")
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    text = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}">{} UTC</time>').format(moment.isoformat(timespec="seconds"), text)


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    whole = round(seconds)
    for size, unit, part, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def p_value(p: float | None) -> str:
    if p is None:
        return "—"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def name_of(path: str) -> str:
    """The last part of a path, which is what a person calls it."""
    return path.rstrip("/").rsplit("/", 1)[-1] or path


def label_text(text: str) -> Markup:
    """A label, with what stands between backticks as code: the explainers write tokens so."""
    marked = (
        Markup("<code>{}</code>").format(_blanks(part)) if is_code else escape(part)
        for is_code, part in code_spans(text)
    )
    return Markup("<bdi>{}</bdi>").format(Markup("").join(marked))


def code_spans(text: str) -> list[tuple[bool, str]]:
    """Split a label into parts, (whether it is code, the text), like Markdown and like the look-up's tokens.

    A run of backticks is closed by the next run of its length. The look-up puts one backtick around any token, backticks
    too: "```" is the token "`".
    """
    runs, parts, at = list(_TICKS.finditer(text)), list[tuple[bool, str]](), 0
    for i, run in enumerate(runs):
        if run.start() < at:
            continue
        close = _closing(text, runs, i)
        code = _code(text, run, close)
        if code is None:
            continue
        parts += [(False, text[at : run.start()]), (True, code)]
        at = (close or run).end()
    return [part for part in [*parts, (False, text[at:])] if part[1]]


_TICKS = re.compile("`+")


def _closing(text: str, runs: Sequence[re.Match[str]], i: int) -> re.Match[str] | None:
    later, length = runs[i + 1 :], len(runs[i][0])
    same = [run for run in later if len(run[0]) == length]
    if length == 1 and same and len(same) % 2 == 0:
        # One backtick too many: `a`b` is a token with one inside, where the first that can close stands inside a word.
        return next(
            (
                run
                for run in same
                if not text[run.end() : run.end() + 1].isalnum() and not text[run.start() - 1].isspace()
            ),
            same[0],
        )
    if length == 1 and not same and later:  # the token ends with backticks
        return later[0]
    return same[0] if same else None


def _code(text: str, run: re.Match[str], close: re.Match[str] | None) -> str | None:
    """Return the code inside the backticks, or None if their run is not closed and so is plain text."""
    if close is None:
        return run[0][1:-1] or None
    inside = text[run.end() : close.start()] + "`" * (len(close[0]) - len(run[0]))
    padded = len(run[0]) > 1 and inside[:1] == inside[-1:] == " " and inside.strip()
    return inside[1:-1] if padded else inside


_SEEN_BLANKS = re.compile("^ +| +$| {2,}")


def _blanks(code: str) -> Markup:
    """Mark the outer blanks of code, and runs of blanks: they are part of a token, but hard to see."""
    return Markup(_SEEN_BLANKS.sub(lambda run: '<i class="blank"> </i>' * len(run[0]), str(escape(code))))


def token_text(token: str) -> str:
    """A token of its own, with what would not be seen."""
    return token.replace("\n", "↵").replace("\t", "→").replace(" ", "·") or "∅"


def state_words(state: str) -> str:
    return STATE_WORDS.get(state, state)


def source_words(source: str) -> str:
    return SOURCE_WORDS.get(source, source)


def flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested values as lines: `contexts.explain_top`, 20."""
    lines: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            value = dict(enumerate(value, start=1))
        lines += flat(value, f"{before}{name}.") if isinstance(value, Mapping) else [(before + str(name), value)]
    return lines


FILTERS: dict[str, Callable[..., Any]] = {
    "count": count,
    "share": share,
    "number": number,
    "density": density,
    "short": short,
    "money": money,
    "when": when,
    "activation": activation,
    "signed": signed,
    "duration": duration,
    "p_value": p_value,
    "name_of": name_of,
    "sae_name": sae_name,
    "headline": headline,
    "state_words": state_words,
    "source_words": source_words,
    "flat": flat,
    "label_text": label_text,
    "token_text": token_text,
    "interval": lambda pair: interval(*pair),
}
