"""Contexts as heat maps: tokens with the classes of their colors. Silent tokens stay plain text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup, escape

from api.pages.words import activation
from labeler.evidence.store import EvidenceFolder
from labeler.records import Context, Simulation, Source, Split
from labeler.views import in_characters, simulated_in_characters

_LEFT = 20  # tokens before the window, for a reader: neither explainer nor simulator saw them
_STEPS = 10  # steps of color


@dataclass(frozen=True)
class Shown:
    """A context on a page."""

    text: Markup
    document: int | None
    peak: float
    place: str  # among the firing windows, where it is known: "decile 3"
    reason: str | None = None  # why there is no simulation
    n_flagged: int = 0  # simulated strengths that rest on little


@dataclass(frozen=True)
class Group:
    source: Source
    split: Split
    contexts: tuple[Shown, ...]
    simulated: bool


def explain_groups(folder: EvidenceFolder, contexts: Sequence[Context], most: float) -> list[Group]:
    shown = [(c.source, _shown(folder, in_characters(c, folder.vocabulary), most)) for c in contexts]
    return _grouped(shown, Split.EXPLAIN, simulated=False)


def held_out_groups(folder: EvidenceFolder, simulations: Sequence[Simulation], most: float) -> list[Group]:
    """Predictions have a scale of their own: that of the highest one."""
    highest = max((max(s.predicted, default=0.0) for s in simulations if s.predicted is not None), default=0.0)
    joined = [simulated_in_characters(s, folder.vocabulary) for s in simulations]
    shown = [(s.context.source, _shown(folder, s.context, most, s, highest)) for s in joined]
    return _grouped(shown, Split.HELD_OUT, simulated=True)


def brought_groups(contexts: Sequence[tuple[Sequence[str], Sequence[float]]], most: float) -> list[Group]:
    """Group the contexts that an imported file brought, (tokens, activations), the strongest first."""
    shown = [
        (Source.TOP, Shown(heat(tokens, activations, most), None, max(activations, default=0.0), ""))
        for tokens, activations in contexts
    ]
    return _grouped(shown, Split.EXPLAIN, simulated=False)


def _grouped(shown: Iterable[tuple[Source, Shown]], split: Split, simulated: bool) -> list[Group]:
    by_source: dict[Source, list[Shown]] = {source: [] for source in Source}
    for source, context in shown:
        by_source[source].append(context)
    in_order = {source: sorted(members, key=lambda c: -c.peak) for source, members in by_source.items()}
    return [Group(source, split, tuple(members), simulated) for source, members in in_order.items() if members]


def _shown(
    folder: EvidenceFolder, context: Context, most: float, simulation: Simulation | None = None, highest: float = 0.0
) -> Shown:
    predicted = None if simulation is None else simulation.predicted
    before = _before(folder, context)
    text = Markup('<span class="before">{}</span>').format(_plain(before)) if before else Markup("")
    text += heat(context.tokens, context.activations, most, predicted, highest)
    place = f"decile {context.stratum}" if context.stratum else "silent" if context.stratum == 0 else ""
    shown = Shown(text, context.document, context.peak, place)
    return shown if simulation is None else replace(shown, reason=simulation.reason, n_flagged=simulation.n_flagged)


def _before(folder: EvidenceFolder, context: Context) -> str:
    """The text to the left of the window, as far as the sequence goes."""
    corpus, start = folder.corpus, context.token_start
    if not 0 <= start < corpus.n_tokens:
        return ""
    low = max(start - _LEFT, int(corpus.sequence_starts[corpus.sequence_of(np.array([start]))[0]]))
    return folder.vocabulary.joined(folder.token_ids(low, start).tolist())


def heat(
    tokens: Sequence[str],
    activations: Sequence[float],
    most: float,
    predicted: Sequence[float] | None = None,
    highest: float = 0.0,
) -> Markup:
    """The tokens: `h1` to `h10` by activation, of the feature's maximum; `s1` to `s10` by prediction, of the highest.

    Silent tokens are not marked, so that a page of contexts stays small.
    """
    parts, silent = list[Markup](), list[str]()
    for i, (token, value) in enumerate(zip(tokens, activations, strict=True)):
        guess = predicted[i] if predicted is not None else 0.0
        if value <= 0 and guess <= 0:
            silent.append(token)
            continue
        parts.append(_plain("".join(silent)))
        silent.clear()
        title = activation(value) if predicted is None else f"{activation(value)}, simulated {activation(guess)}"
        classes = f"{_step('h', value, most)} {_step('s', guess, highest)}".strip()
        # Both have only letters and digits.
        parts.append(Markup(f'<i class="{classes}" title="{title}">{_plain(token)}</i>'))
    return Markup("").join([*parts, _plain("".join(silent))])


def _step(letter: str, value: float, most: float) -> str:
    """Return the class of a value. Any activation above 0 has a color."""
    return f"{letter}{min(_STEPS, max(1, math.ceil(value / most * _STEPS)))}" if value > 0 and most > 0 else ""


# Controls, and what is not seen or turns the direction of what follows (Unicode's Cc, Cf).
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")
_KNOWN = {"\n": '<span class="nl">↵</span>\n', "\t": '<span class="nl">→</span>\t'}


def _plain(text: str) -> Markup:
    """Return the text with a sign for each invisible character."""
    escaped = str(escape(text))
    return Markup(escaped if escaped.isprintable() else _HIDDEN.sub(_visible, escaped))


def _visible(found: re.Match[str]) -> str:
    return _KNOWN.get(found[0]) or f'<span class="nl">⟨{ord(found[0]):04X}⟩</span>'
