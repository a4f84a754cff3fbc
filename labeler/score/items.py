"""Turn contexts into a scorer's questions, and its answers into scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt
from statistics import NormalDist

import numpy as np

from labeler.records import Context, Score
from labeler.score.classification import auroc, resampled_auroc
from labeler.score.interval import score_interval
from labeler.score.null import null_z_and_p

CHANCE = 0.5  # of balanced accuracy and AUROC alike
FAILED = "every request failed"


@dataclass(frozen=True)
class Item:
    """One question that is answered with yes or no."""

    context: Context
    shown: str
    rival: str | None = None  # None where yes is right; else what makes it a no: "random", "hard", "same"
    tokens: tuple[int, ...] | None = None  # those that the question is about; None: all

    @property
    def positive(self) -> bool:
        return self.rival is None


@dataclass(frozen=True)
class Compared:
    """The values that look-up labels give for each item, where there are any."""

    baseline: np.ndarray | None = None  # [n_items] of the feature's own
    null: np.ndarray | None = None  # [n_labels, n_items] of other features


@dataclass(frozen=True)
class _Asked:
    """The items of one score that have a value; `n_failed` counts the items without one."""

    positive: np.ndarray  # [n_items] booleans
    values: np.ndarray  # [n_items] yes or no as 1 and 0, or what is ranked
    sequence: np.ndarray  # [n_items] the number of the item's document, from 0: contexts of one are drawn together
    kept: np.ndarray  # [n_items] the item's place among all
    n_failed: int

    @classmethod
    def of(cls, items: Sequence[Item], values: Sequence[float | None], rival: str | None) -> _Asked:
        wanted = [i for i, item in enumerate(items) if rival is None or item.rival in (None, rival)]
        if rival is not None and not any(items[i].rival == rival for i in wanted):
            wanted = []  # without a negative of this kind there is nothing to tell apart
        kept = np.array([i for i in wanted if values[i] is not None], dtype=np.int64)
        documents = np.array([items[i].context.document for i in kept], dtype=np.int64)
        return cls(
            np.array([items[i].positive for i in kept], dtype=bool),
            np.array([values[i] for i in kept], dtype=np.float64),
            np.unique(documents, return_inverse=True)[1],
            kept,
            len(wanted) - len(kept),
        )

    @property
    def n_sequences(self) -> int:
        return int(self.sequence.max()) + 1

    @property
    def why_none(self) -> str:
        return FAILED if self.n_failed else "no held-out contexts of this kind"

    @property
    def why_undefined(self) -> str | None:
        if not len(self.values):
            return self.why_none
        if self.positive.all() or not self.positive.any():
            return f"{'no negative' if self.positive.all() else 'no positive'} among the contexts that got an answer"
        return "fewer than 2 sequences" if self.n_sequences < 2 else None

    def auroc_of(self, values: np.ndarray) -> float | None:
        """Return the AUROC of other values, [n_items] of all items, on the items that are in this score."""
        kept = values[self.kept]
        return auroc(kept[self.positive], kept[~self.positive])


@dataclass(frozen=True)
class _Share:
    """The share of right answers among some answers."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, right: np.ndarray, sequence: np.ndarray, confidence: float) -> _Share:
        """Return the share with Wilson's interval (1927), in which all contexts of a document count as one answer.

        A bootstrap of 20 right answers of 20 never sees a wrong one, and would say that there is none.
        """
        p, n = float(right.mean()), len(np.unique(sequence))
        z2 = NormalDist().inv_cdf((1.0 + confidence) / 2.0) ** 2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        reach = sqrt(z2 * p * (1 - p) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
        return cls(p, max(0.0, min(p, middle - reach)), min(1.0, max(p, middle + reach)))


@dataclass(frozen=True)
class Measure:
    """Computes scores of answers; the document is the unit of an interval."""

    confidence: float = 0.95
    seed: int = 0

    def accuracy(self, name: str, items: Sequence[Item], yes: Sequence[bool | None], rival: str | None = None) -> Score:
        """Return balanced accuracy, chance 0.5; with a rival, only against the negatives of that kind.

        It is the mean of two shares, whose intervals are joined as Newcombe (1998, method 10) joins them for a
        difference.
        """
        asked = _Asked.of(items, [None if y is None else float(y) for y in yes], rival)
        if reason := asked.why_undefined:
            return Score(name, None, reason, n=len(asked.values), n_failed=asked.n_failed)
        right = np.where(asked.positive, asked.values, 1.0 - asked.values)
        a, b = (_Share.of(right[k], asked.sequence[k], self.confidence) for k in (asked.positive, ~asked.positive))
        value = (a.value + b.value) / 2
        low = value - hypot(a.value - a.low, b.value - b.low) / 2
        high = value + hypot(a.high - a.value, b.high - b.value) / 2
        n = len(asked.values)
        return Score(name, value, low=low, high=high, n=n, n_failed=asked.n_failed, null_mean=CHANCE)

    def auroc(
        self,
        name: str,
        items: Sequence[Item],
        values: Sequence[float | None],
        rival: str | None = None,
        compared: Compared | None = None,
    ) -> Score:
        """Return AUROC, chance 0.5; with a rival, only against the negatives of that kind."""
        asked = _Asked.of(items, values, rival)
        if reason := asked.why_undefined:
            return Score(name, None, reason, n=len(asked.values), n_failed=asked.n_failed)
        replicates = resampled_auroc(asked.positive, asked.values, asked.sequence)
        (value,) = replicates(np.ones((1, asked.n_sequences))).tolist()
        interval = score_interval(
            replicates, asked.n_sequences, confidence=self.confidence, seed=self.seed, bounds=(0.0, 1.0)
        )
        low, high = interval or (None, None)
        n = len(asked.values)
        score = Score(name, value, low=low, high=high, n=n, n_failed=asked.n_failed, null_mean=CHANCE)
        if compared is None:
            return score
        others = [asked.auroc_of(row) for row in compared.null] if compared.null is not None else []
        against = null_z_and_p(score.value, others)
        return replace(
            score,
            baseline_token_lookup=None if compared.baseline is None else asked.auroc_of(compared.baseline),
            null_z=against.z,
            null_p=against.p,
            null_n=against.n,
            null_mean=CHANCE if against.mean is None else against.mean,
        )

    def recall(self, name: str, answered: Sequence[tuple[Item, bool | None]]) -> Score:
        """Return the share of the items, all of them positives, that got a yes; there is no chance level."""
        asked = _Asked.of([i for i, _ in answered], [None if y is None else float(y) for _, y in answered], None)
        if not len(asked.values):
            return Score(name, None, asked.why_none, n_failed=asked.n_failed)
        share = _Share.of(asked.values, asked.sequence, self.confidence)
        n = len(asked.values)
        return Score(name, share.value, low=share.low, high=share.high, n=n, n_failed=asked.n_failed)


def with_reason(scores: Sequence[Score], reasons: Sequence[str | None]) -> tuple[Score, ...]:
    """Return the scores; scores without any usable answer give the reason."""
    first = next((reason for reason in reasons if reason is not None), None)
    return tuple(replace(s, reason=f"{FAILED}: {first}") if s.reason == FAILED and first else s for s in scores)
