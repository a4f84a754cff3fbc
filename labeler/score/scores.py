"""Turn simulations into scores: every number that one label gets from the contexts it was simulated on.

    name                     contexts          measure
    simulation               TOP and RANDOM    Pearson over all tokens; the main score
    simulation_top           TOP               Pearson
    simulation_random        RANDOM            Pearson
    simulation_weighted      drawn by design   Pearson with weights N_h / n_h: estimates the whole corpus
    simulation_all           all               Pearson; of no population, but the surest order of one feature's labels
    rsquared, abs_dev        TOP and RANDOM    as Bills et al. 2023, of the uncalibrated 0..10 predictions
    auroc_token              TOP and RANDOM    does the feature fire on this token?
    average_precision_token  TOP and RANDOM    the same; by chance it is the share of firing tokens
    auroc_sequence           TOP and RANDOM    does it fire in this context? ranked by the highest prediction

A context whose simulation failed is left out and counted; it is never zeros. A score that does not exist has a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import numpy as np

from labeler.errors import InputError, MismatchError
from labeler.records import Context, Score, Simulation, Source
from labeler.score import agreement, classification
from labeler.score.agreement import Resampled
from labeler.score.correlation_interval import correlation_interval
from labeler.score.interval import score_interval
from labeler.score.null import null_z_and_p

# One label's predictions for each context, in the order of the simulations; None where it has none for a context.
Predictions = Sequence[Sequence[float] | None]

SHARE, EXPLAINED = (0.0, 1.0), (-np.inf, 1.0)
_MAIN = (Source.TOP, Source.RANDOM)


def simulation_scores(
    simulations: Sequence[Simulation],
    *,
    baseline: Predictions | None = None,
    null: Sequence[Predictions] | np.ndarray = (),
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Score, ...]:
    """Return all scores of one label in the order of the table above, with or without a value.

    `baseline` is what a token look-up predicts, and `null` what labels of other features predict. Both are for the
    contexts of `simulations` in their order; a null of many labels may come as one array [n_labels, all tokens].
    "simulation" and "simulation_weighted" are compared with both, on the contexts that the label itself was scored on.
    Raises MismatchError where predictions do not fit the contexts.
    """
    others = [_aligned(p, simulations) for p in ((baseline,) if baseline is not None else ())]
    if isinstance(null, np.ndarray):
        others += [_fitting(row, simulations) for row in null]
    else:
        others += [_aligned(p, simulations) for p in null]
    everything = _concatenate(simulations, others)
    main = everything.where(is_main([s.context for s in simulations]))
    top = everything.where([s.context.source is Source.TOP for s in simulations])
    random = everything.where([s.context.source is Source.RANDOM for s in simulations])
    stands_for = np.array([s.context.weight or 0.0 for s in simulations])
    by_design = everything.where([s.context.weight is not None for s in simulations]).weighted(stands_for)

    score = _Scorer(confidence, seed, has_baseline=baseline is not None)
    return (
        score.correlation("simulation", main, compared=True),
        score.correlation("simulation_top", top),
        score.correlation("simulation_random", random),
        score.correlation("simulation_weighted", by_design, compared=True),
        score.correlation("simulation_all", everything),
        score.explained("rsquared", main, agreement.rsquared, agreement.resampled_rsquared),
        score.explained("abs_dev", main, agreement.abs_dev, agreement.resampled_abs_dev),
        score.ranking("auroc_token", main, _tokens, classification.resampled_auroc),
        score.ranking("average_precision_token", main, _tokens, classification.resampled_average_precision),
        score.ranking("auroc_sequence", main, _contexts, classification.resampled_auroc),
    )


def is_main(contexts: Sequence[Context]) -> list[bool]:
    """Return True for held-out contexts that the main score rests on: TOP and RANDOM.

    Evidence that others have gathered has no RANDOM contexts. There, the main score rests on all held-out contexts,
    which are drawn from intervals of the activation.
    """
    flags = [c.source in _MAIN for c in contexts]
    return flags if any(flags) else [c.source is not Source.HARD for c in contexts]


@dataclass(frozen=True)
class _Sample:
    """The contexts of one score. Tokens are those of contexts that have a simulation; `failed` counts the others."""

    truth: np.ndarray  # [n_tokens] raw activations
    simulated: np.ndarray  # [n_tokens] predictions on 0..10
    others: np.ndarray  # [n_others, n_tokens] the baseline's and the null's predictions, NaN where missing
    context: np.ndarray  # [n_tokens] rising; which of the label's simulations the token is from
    scored: np.ndarray  # indices of the simulations that are in the score
    failed: np.ndarray  # indices of those that gave no prediction
    document: np.ndarray  # [n_simulations]
    fires: np.ndarray  # [n_simulations] whether the feature fires in the context
    weights: np.ndarray | None = None  # [n_tokens]

    def where(self, chosen: Sequence[bool]) -> _Sample:
        """Return the sample of contexts for which `chosen`, one flag for each of the label's simulations, is true."""
        flags = np.array(chosen, dtype=bool)
        kept = flags[self.context]
        return replace(
            self,
            truth=self.truth[kept],
            simulated=self.simulated[kept],
            others=self.others[:, kept],
            context=self.context[kept],
            scored=self.scored[flags[self.scored]],
            failed=self.failed[flags[self.failed]],
        )

    def weighted(self, stands_for: np.ndarray) -> _Sample:
        """Weight each token by the windows its context stands for; a failed context's share goes to others of its kind.

        Without that, failures among the few firing contexts would make the corpus look more silent than it is.
        """
        weight = stands_for.copy()
        for kind in (self.fires, ~self.fires):
            scored, failed = self.scored[kind[self.scored]], self.failed[kind[self.failed]]
            if len(failed) and len(scored):
                weight[scored] *= 1.0 + weight[failed].sum() / weight[scored].sum()
        return replace(self, weights=weight[self.context])

    @cached_property
    def sequence(self) -> np.ndarray:
        """Return [n_tokens] the number of each token's document, from 0: contexts of one document are drawn together."""
        return np.unique(self.document[self.context], return_inverse=True)[1]

    @property
    def n_sequences(self) -> int:
        return int(self.sequence.max()) + 1

    @cached_property
    def why_undefined(self) -> str | None:
        """Return the reason why no measure can be defined on this sample, if there is one."""
        if not len(self.scored) + len(self.failed):
            return "no held-out contexts of this kind"
        if not len(self.scored):
            return "every simulation failed"
        if self.weights is not None:
            for kind, flags in (("firing", self.fires), ("silent", ~self.fires)):
                if flags[self.failed].any() and not flags[self.scored].any():
                    return f"every simulation of the {kind} contexts failed"
        if len(self.scored) < 2:
            return "fewer than 2 sequences"
        return None


# A ranking's items: for each, whether it is positive, its score, and the number of its sequence.
_Items = Callable[[_Sample], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _tokens(sample: _Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return sample.truth > 0, sample.simulated, sample.sequence


def _contexts(sample: _Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first = np.flatnonzero(np.diff(sample.context, prepend=-1))
    highest = np.maximum.reduceat(sample.simulated, first)
    return np.maximum.reduceat(sample.truth, first) > 0, highest, sample.sequence[first]


@dataclass(frozen=True)
class _Scorer:
    confidence: float
    seed: int
    has_baseline: bool

    def correlation(self, name: str, sample: _Sample, *, compared: bool = False) -> Score:
        if reason := sample.why_undefined or _why_no_correlation(sample):
            return _undefined(name, sample, reason)
        rows = np.vstack([sample.simulated, sample.others]) if compared else sample.simulated[None]
        value, *others = agreement.pearson_rows(sample.truth, rows, sample.weights).tolist()
        interval = correlation_interval(
            sample.truth, sample.simulated, sample.sequence, sample.weights, confidence=self.confidence, seed=self.seed
        )
        score = _scored(name, sample, value, interval)
        return self._compared(score, others) if compared else score

    def explained(
        self,
        name: str,
        sample: _Sample,
        measure: Callable[[np.ndarray, np.ndarray], float | None],
        resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], Resampled],
    ) -> Score:
        value = measure(sample.truth, sample.simulated)
        if (reason := sample.why_undefined) or value is None:
            return _undefined(name, sample, reason or "the feature is silent on the held-out contexts")
        replicates = resampled(sample.truth, sample.simulated, sample.sequence)
        return self._score(name, sample, value, replicates, EXPLAINED)

    def ranking(
        self,
        name: str,
        sample: _Sample,
        items: _Items,
        resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], Resampled],
    ) -> Score:
        if reason := sample.why_undefined:
            return _undefined(name, sample, reason)
        positive, scores, sequence = items(sample)
        if positive.all() or not positive.any():
            where = "everywhere" if positive.all() else "nowhere"
            return _undefined(name, sample, f"the feature fires {where} in the held-out contexts")
        replicates = resampled(positive, scores, sequence)
        (value,) = replicates(np.ones((1, sample.n_sequences))).tolist()
        return self._score(name, sample, value, replicates, SHARE)

    def _score(
        self, name: str, sample: _Sample, value: float, resampled: Resampled, bounds: tuple[float, float]
    ) -> Score:
        interval = score_interval(
            resampled, sample.n_sequences, confidence=self.confidence, seed=self.seed, bounds=bounds
        )
        return _scored(name, sample, value, interval)

    def _compared(self, score: Score, others: list[float]) -> Score:
        known = [None if np.isnan(r) else r for r in others]
        baseline, null = (known[0], known[1:]) if self.has_baseline else (None, known)
        against = null_z_and_p(score.value, null)
        return replace(
            score,
            null_z=against.z,
            null_p=against.p,
            null_n=against.n,
            null_mean=against.mean,
            baseline_token_lookup=baseline,
        )


def _why_no_correlation(sample: _Sample) -> str | None:
    if agreement.is_constant(sample.truth, sample.weights):
        return "the feature is constant on the held-out contexts"
    if agreement.is_constant(sample.simulated, sample.weights):
        return "the simulation is constant"
    return None


def _scored(name: str, sample: _Sample, value: float, interval: tuple[float, float] | None) -> Score:
    low, high = interval or (None, None)
    return Score(name, value, low=low, high=high, n=len(sample.scored), n_failed=len(sample.failed))


def _undefined(name: str, sample: _Sample, reason: str) -> Score:
    return Score(name, None, reason=reason, n=len(sample.scored), n_failed=len(sample.failed))


def _concatenate(simulations: Sequence[Simulation], others: Sequence[np.ndarray]) -> _Sample:
    has_prediction = np.array([s.predicted is not None for s in simulations], dtype=bool)
    n_tokens = [len(s.context.activations) for s in simulations]
    context = np.repeat(np.arange(len(simulations)), n_tokens)
    kept = has_prediction[context]
    predicted = _flat([s.predicted for s in simulations if s.predicted is not None])
    if not np.isfinite(predicted).all():
        raise InputError("a simulation predicts NaN or infinity: give no prediction, with a reason")
    return _Sample(
        truth=_flat([s.context.activations for s in simulations])[kept],
        simulated=predicted,
        others=np.stack(others)[:, kept] if others else np.empty((0, int(kept.sum()))),
        context=context[kept],
        scored=np.flatnonzero(has_prediction),
        failed=np.flatnonzero(~has_prediction),
        document=np.array([s.context.document for s in simulations], dtype=np.int64),
        fires=np.array([s.context.peak > 0 for s in simulations], dtype=bool),
    )


def _aligned(predictions: Predictions, simulations: Sequence[Simulation]) -> np.ndarray:
    """Return [n_tokens] another label's predictions for the same contexts, NaN where it has none."""
    if len(predictions) != len(simulations):
        raise MismatchError(f"predictions for {len(predictions)} of {len(simulations)} contexts: give one for each")
    lengths = [len(s.context.activations) for s in simulations]
    for predicted, n in zip(predictions, lengths, strict=True):
        if predicted is not None and len(predicted) != n:
            raise MismatchError(f"{len(predicted)} predictions for a context of {n} tokens: use the same contexts")
    return _flat([(np.nan,) * n if p is None else p for p, n in zip(predictions, lengths, strict=True)])


def _fitting(row: np.ndarray, simulations: Sequence[Simulation]) -> np.ndarray:
    n_tokens = sum(len(s.context.activations) for s in simulations)
    if row.shape != (n_tokens,):
        raise MismatchError(f"predictions of shape {row.shape} for {n_tokens} tokens: use the same contexts")
    return row


def _flat(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.float64, sum(map(len, rows)))
