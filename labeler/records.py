"""Define the frozen values that pass between stages. No tensors, no I/O, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np


class Split(StrEnum):
    """The side of the wall that a document is on. No document is on both."""

    EXPLAIN = "explain"  # may be shown to the explainer
    HELD_OUT = "held_out"  # only ever used to score


class Source(StrEnum):
    """The way in which a context was chosen."""

    TOP = "top"  # highest peak activation, one a sequence
    SAMPLED = "sampled"  # uniform over the windows in which the feature fires
    RANDOM = "random"  # uniform over all windows
    HARD = "hard"  # looks alike and does not fire


class State(StrEnum):
    """The state of a feature, as a user sees it. A failure never looks like a label."""

    PENDING = "pending"
    LABELED = "labeled"
    SILENT = "silent"  # never fired in the corpus
    RARE = "rare"  # fired in too few windows to explain and to score
    FAILED = "failed"


@dataclass(frozen=True)
class Context:
    """A window of tokens, and how strongly one feature fires on each of them."""

    token_start: int  # position of the first token in the evidence's token file
    document: int  # index into the evidence's documents
    split: Split
    source: Source
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]  # as text; joined they give the window back
    activations: tuple[float, ...]  # raw SAE units, as many as tokens
    weight: float | None = None  # how many windows of the split this one stands for; None where not sampled by design
    stratum: int | None = (
        None  # 0: feature silent; 1..10: decile of its firing windows; None where not sampled by design
    )

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def peak(self) -> float:
        return max(self.activations)


FIRST_POSITION = "first position"  # the mark of a feature that says where a token stands, not what it is
FIRST_POSITION_SHARE = 0.9  # of its firings, from which a feature has the mark
MASSIVE_MULTIPLE = 10.0  # of the median norm; above it a token is massive, as in dictionary_learning's training


@dataclass(frozen=True)
class FeatureStatistics:
    """Exact counts over the whole corpus for one feature, independent of how the pass was cut.

    In evidence that others have gathered (evidence/given.py), None marks what they do not state, and the windows by
    split are those that they show.
    """

    n_tokens: int | None  # tokens of the corpus the feature was evaluated on
    n_firings: int | None  # tokens with activation > 0
    n_windows: int | None  # windows of the corpus
    n_firing_windows: int | None
    n_firing_windows_by_split: dict[Split, int]
    n_windows_by_split: dict[Split, int]
    mean: float | None  # over firing tokens, raw SAE units
    max: float | None
    histogram: tuple[int, ...]  # firing tokens per log2 bin of activation, edges in HISTOGRAM_EDGES; empty: unknown
    stated_density: float | None = None  # where others state it, and nothing was counted
    n_firings_first: int | None = None  # on the first token of a sequence; None: not counted
    n_firings_massive: int | None = None  # on massive tokens (sae/massive.py)

    @property
    def mark(self) -> str | None:
        """Return what stands beside the state: "first position" where the feature lives on first or massive tokens."""
        apart = max(self.n_firings_first or 0, self.n_firings_massive or 0)
        return FIRST_POSITION if self.n_firings and apart >= FIRST_POSITION_SHARE * self.n_firings else None

    @property
    def density(self) -> float | None:
        """Share of tokens on which the feature fires."""
        if self.n_firings is None or self.n_tokens is None:
            return self.stated_density
        return self.n_firings / self.n_tokens if self.n_tokens else 0.0


# Half-octave bins of the activation; the first and the last are open.
HISTOGRAM_EDGES: tuple[float, ...] = tuple(2.0 ** (e / 2) for e in range(-20, 21))


@dataclass(frozen=True)
class OutputTokens:
    """The tokens that the decoder says of a feature (the logit lens), as texts, strongest first."""

    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """Three continuations of one prompt: by the subject itself, with the feature turned up, with another one."""

    prompt: str
    clean: str
    steered: str
    control: str


@dataclass(frozen=True)
class Steered:
    """The trials of an intervention on one feature (score/intervention); none where there is a reason."""

    feature_index: int
    trials: tuple[Trial, ...]
    reason: str | None = None


@dataclass(frozen=True)
class FeatureEvidence:
    """All that was gathered for one feature, cut to what a recipe asks for.

    `explain` is what an explainer may see, `held_out` is what labels are scored on: different documents, and no
    near-duplicate windows across the two. `choose`, `show` and `compare` are of HELD_OUT documents too, each part of
    other documents than the others and than `held_out`, for a recipe that decides something by scores: what a decision
    was made on is never what is reported.
    """

    feature_index: int
    statistics: FeatureStatistics
    explain: tuple[Context, ...]
    held_out: tuple[Context, ...]
    more_draws: tuple[tuple[Context, ...], ...] = ()  # other choices of EXPLAIN contexts, for more labels
    choose: tuple[Context, ...] = ()  # decides which of several labels is kept
    show: tuple[Context, ...] = ()  # shows a label what it gets wrong
    compare: tuple[Context, ...] = ()  # decides whether a revised label is kept
    output: OutputTokens | None = None  # None where nothing asks for it
    steered: Steered | None = None  # None where the recipe asks for no intervention
    lookup: Label | None = None  # learnt from all gathered EXPLAIN windows: the baseline of every other label
    too_little: tuple[State, str] | None = None  # why the feature is silent, rare, or failed (damaged)

    def of(self, split: Split) -> tuple[Context, ...]:
        return self.explain if split is Split.EXPLAIN else self.held_out

    @property
    def of_held_out_documents(self) -> tuple[Context, ...]:
        """All contexts that no explainer may see: those that report, and those that decide."""
        return (*self.held_out, *self.choose, *self.show, *self.compare)

    @property
    def draws(self) -> tuple[tuple[Context, ...], ...]:
        """Return the contexts that the explainer sees for each label of a best-of-K."""
        return (self.explain, *self.more_draws)


@dataclass(frozen=True)
class Usage:
    """The cost of LLM requests. `cost_usd` is None where the price of the model is unknown: unknown is not zero."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_usd is not None and other.cost_usd is not None
        return Usage(
            self.requests + other.requests,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if known else None,
        )


PAIR_BASE = 1 << 31  # (token before, token) as one integer: before * PAIR_BASE + token


@dataclass(frozen=True)
class TokenTable:
    """E[activation | token], and E[activation | token before, token] where that adds information. Raw SAE units."""

    by_token: dict[int, float] = field(default_factory=dict)
    by_pair: dict[tuple[int, int], float] = field(default_factory=dict)  # (token before, token)

    @cached_property
    def arrays(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """(sorted keys, values) of the tokens and of the pairs, for looking many tokens up at once."""
        pairs = {before * PAIR_BASE + token: value for (before, token), value in self.by_pair.items()}
        return _sorted_arrays(self.by_token), _sorted_arrays(pairs)

    def predict(self, token_ids: tuple[int, ...]) -> tuple[float, ...]:
        before = (None, *token_ids[:-1])
        return tuple(
            self.by_pair.get((b, t), self.by_token.get(t, 0.0)) if b is not None else self.by_token.get(t, 0.0)
            for b, t in zip(before, token_ids, strict=True)
        )


def _sorted_arrays(table: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    keys = sorted(table)
    return np.array(keys, dtype=np.int64), np.array([table[k] for k in keys], dtype=np.float64)


@dataclass(frozen=True)
class Label:
    """A hypothesis about what a feature detects: one line of 1-200 characters."""

    text: str
    explainer: str  # "lookup" or "openai:MODEL"
    table: TokenTable | None = None  # what a look-up label is worth; None for a label in words alone


@dataclass(frozen=True)
class Simulation:
    """The predictions for one context by a simulator that saw only the label."""

    context: Context
    predicted: tuple[float, ...] | None  # as many as tokens; None when no usable reply came
    reason: str | None = None  # why there is no prediction
    n_flagged: int = 0  # predictions that rest on less than a thousandth of the simulator's probability

    def __post_init__(self) -> None:
        if self.predicted is None and not self.reason:
            raise ValueError("a simulation without predictions needs a reason")
        if self.predicted is not None and len(self.predicted) != len(self.context.tokens):
            raise ValueError(f"{len(self.predicted)} predictions for {len(self.context.tokens)} tokens")


@dataclass(frozen=True)
class Score:
    """Agreement of prediction and truth: a value, or a reason why there is none."""

    name: str  # "simulation", "simulation_top", "simulation_random", "simulation_weighted", ...
    value: float | None
    reason: str | None = None  # set exactly where value is None
    low: float | None = None  # 95% interval; the document is the unit
    high: float | None = None
    n: int = 0  # contexts scored, or questions answered
    n_failed: int = 0  # contexts left out because no usable simulation came
    null_z: float | None = None  # against the labels of other features on the same contexts
    null_p: float | None = None
    null_n: int = 0  # labels in the null
    baseline_token_lookup: float | None = None  # the same score for E[activation | token]
    null_mean: float | None = None  # mean score of the null's labels: where "no information" lies for this feature

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise ValueError(f"score {self.name}: a value or a reason, never both or neither")
        numbers = (
            self.value,
            self.low,
            self.high,
            self.null_z,
            self.null_p,
            self.baseline_token_lookup,
            self.null_mean,
        )
        if not all(number is None or math.isfinite(number) for number in numbers):
            raise ValueError(f"score {self.name}: NaN or infinity is no number of a score; give None, with a reason")


@dataclass(frozen=True)
class Candidate:
    """A label that was tried, and what it scored on the documents of a decision; not a score to report.

    The best of several is there by luck too (the winner's curse), so the decision's documents report nothing.
    """

    text: str
    decided: str  # what was decided with it: "triage", "best of K", "revision"
    kept: bool
    score: float | None = None  # simulation score on the decision's documents
    reason: str | None = None  # why there is none
    n: int = 0  # contexts


@dataclass(frozen=True)
class Origin:
    """The origin of a label that took a decision."""

    method: str  # of the label that was kept, such as "contrastive" or "lookup"
    why: str  # one sentence, for people
    revised: bool = False
    asked_llm: bool = True  # False: triage kept the look-up label
    candidates: tuple[Candidate, ...] = ()
    draw: int = 0  # which of `FeatureEvidence.draws` the explainer saw for it


@dataclass(frozen=True)
class LabeledFeature:
    """The result for one feature. Only a labeled one can carry scores."""

    feature_index: int
    state: State
    statistics: FeatureStatistics
    reason: str | None = None  # why there is no label
    label: Label | None = None
    scores: tuple[Score, ...] = ()
    simulations: tuple[Simulation, ...] = ()
    usage: Usage = Usage()
    origin: Origin | None = None  # None: the recipe left nothing to decide

    def __post_init__(self) -> None:
        if (self.state is State.LABELED) != (self.label is not None):
            raise ValueError(f"feature {self.feature_index}: state {self.state} does not fit its label")
        if self.label is None and (self.scores or not self.reason):
            raise ValueError(f"feature {self.feature_index}: without a label there is a reason and there are no scores")

    def score(self, name: str) -> Score | None:
        return next((s for s in self.scores if s.name == name), None)
