"""Explain by token look-up: E[activation | token], the baseline of Bills et al. 2023, as a label of its own.

It learns from the EXPLAIN windows how strongly the feature fires on each token, and on each (token before, token) where
that says more. Then it describes the table to a person in a line. A label in words is worth its price where it beats
this.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labeler.evidence.store import Windows
from labeler.llm.spelling import alone
from labeler.records import Label, Source, TokenTable
from labeler.subject.vocabulary import Vocabulary

# A pair must be seen this often, and differ this much from its token alone, before it is believed.
_PAIR_SEEN = 3
_PAIR_STANDARD_ERRORS = 2.0
_SHRINK = 2.0  # pseudo-observations at the token's own mean
_NAMED = 4  # tokens named in the label
_MOSTLY = 0.6  # share of firings from which "mostly" is said
_WORTH_NAMING = 0.05  # of the activation mass: a token with less is not in the label


@dataclass(frozen=True)
class _Tokens:
    """Tokens of the EXPLAIN windows, flat."""

    token: np.ndarray
    before: np.ndarray  # -1 at the start of a window
    after: np.ndarray  # -1 at the end of a window
    activation: np.ndarray

    @classmethod
    def of(cls, windows: Sequence[Windows]) -> _Tokens:
        columns = [_columns(w) for w in windows]
        return cls(*(np.concatenate(c) for c in zip(*columns, strict=True)))

    def only(self, mask: np.ndarray) -> _Tokens:
        return _Tokens(self.token[mask], self.before[mask], self.after[mask], self.activation[mask])


def _columns(windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    ids = windows.token_ids
    edge = np.full((len(ids), 1), -1)
    before = np.hstack([edge, ids[:, :-1]])
    after = np.hstack([ids[:, 1:], edge])
    real = ids >= 0
    return ids[real], before[real], after[real], windows.activations[real].astype(np.float64)


def explain_by_lookup(windows: Mapping[Source, Windows], vocabulary: Vocabulary) -> Label:
    """Return the look-up label of a feature, from its EXPLAIN windows by source."""
    tokens = _Tokens.of([w for w in windows.values() if len(w)])
    table = learn_table(tokens)
    return Label(describe(table, tokens, vocabulary), "lookup", table)


def learn_table(tokens: _Tokens) -> TokenTable:
    """Learn the mean activation of each token that ever fired, and of each pair that says more, over the windows."""
    here = tokens.only(np.isin(tokens.token, np.unique(tokens.token[tokens.activation > 0])))
    ids, of_token, n = np.unique(here.token, return_inverse=True, return_counts=True)
    mean = np.bincount(of_token, weights=here.activation) / n
    spread = np.sqrt(np.bincount(of_token, weights=(here.activation - mean[of_token]) ** 2) / n)
    return TokenTable(
        dict(zip(ids.tolist(), mean.tolist(), strict=True)),
        _pairs_that_say_more(ids, of_token, mean, spread, here),
    )


def _pairs_that_say_more(
    ids: np.ndarray, of_token: np.ndarray, mean: np.ndarray, spread: np.ndarray, here: _Tokens
) -> dict[tuple[int, int], float]:
    span = int(here.before.max(initial=0)) + 2
    keys, of_pair, n = np.unique(of_token * span + here.before + 1, return_inverse=True, return_counts=True)
    token, before = keys // span, keys % span - 1
    total = np.bincount(of_pair, weights=here.activation)
    differs = np.abs(total / n - mean[token]) > _PAIR_STANDARD_ERRORS * spread[token] / np.sqrt(n)
    shrunk = (total + _SHRINK * mean[token]) / (n + _SHRINK)
    chosen = np.flatnonzero((before >= 0) & (n >= _PAIR_SEEN) & differs)
    return {(int(before[i]), int(ids[token[i]])): float(shrunk[i]) for i in chosen}


def describe(table: TokenTable, tokens: _Tokens, vocabulary: Vocabulary) -> str:
    """Describe a table in 1-200 characters: the tokens that carry the activation, their strength and their neighbors."""
    firing = tokens.only(tokens.activation > 0)
    ids, of_token = np.unique(firing.token, return_inverse=True)
    mass: defaultdict[str, float] = defaultdict(float)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for token, weight in zip(ids.tolist(), np.bincount(of_token, weights=firing.activation).tolist(), strict=True):
        text = vocabulary.text(token)
        name = text.strip().lower() or text
        mass[name] += weight
        members[name].append(token)
    total = sum(mass.values())
    ranked = sorted(mass, key=lambda name: (-mass[name], name))
    named = [n for n in ranked[:_NAMED] if mass[n] >= _WORTH_NAMING * total] or ranked[:1]
    strongest = max(table.by_token.values())
    parts = [_describe_name(n, members[n], firing, table, strongest, vocabulary) for n in named]
    share = sum(mass[n] for n in named) / total
    text = ("the token " if len(ranked) == 1 else "the tokens " if len(named) > 1 else "mostly the token ") + ", ".join(
        parts
    )
    if share < _MOSTLY:
        text = f"spread over {len(ids)} tokens, {share:.0%} on {', '.join(parts)}"
    return text if len(text) <= 200 else text[:199].rstrip() + "…"


def _describe_name(
    name: str, members: list[int], firing: _Tokens, table: TokenTable, strongest: float, vocabulary: Vocabulary
) -> str:
    here = firing.only(np.isin(firing.token, members))
    weight = {t: float(here.activation[here.token == t].sum()) for t in members}
    main = max(members, key=lambda t: (weight[t], -t))
    spelled = show_token(vocabulary.text(main))
    rating = max(table.by_token[t] for t in members) / strongest * 10
    text = f"{spelled} ({rating:.0f}/10)" if rating < 9.5 else spelled
    # A window's first token has no neighbor before it, and its last none after.
    for side, word in ((here.before, "after"), (here.after, "before")):
        known = side >= 0
        neighbour, share = _commonest(side[known], here.activation[known])
        if neighbour is not None and share >= _MOSTLY and np.count_nonzero(known) >= _PAIR_SEEN:
            return f"{text}, mostly {word} {show_token(vocabulary.text(neighbour))}"
    return text


def _commonest(ids: np.ndarray, weights: np.ndarray) -> tuple[int | None, float]:
    if len(ids) == 0:
        return None, 0.0
    totals: Counter[int] = Counter()
    for i, w in zip(ids.tolist(), weights.tolist(), strict=True):
        totals[i] += w
    best = min(totals, key=lambda i: (-totals[i], i))
    return best, totals[best] / sum(totals.values())


def show_token(text: str) -> str:
    """Spell a token for people and prompts: quoted, with line breaks and runs of blanks as signs."""
    shown = re.sub(" {2,}", lambda run: f"·×{len(run[0])}", alone(text))  # a page would fold the blanks into one
    return f"`{shown}`"
