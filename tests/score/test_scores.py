from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labeler.errors import InputError, MismatchError
from labeler.records import Context, Score, Simulation, Source, Split
from labeler.score.agreement import abs_dev, pearson, rsquared
from labeler.score.scores import simulation_scores

_NAMES = [
    "simulation",
    "simulation_top",
    "simulation_random",
    "simulation_weighted",
    "simulation_all",
    "rsquared",
    "abs_dev",
    "auroc_token",
    "average_precision_token",
    "auroc_sequence",
]
_N_TOKENS = 8


def _context(document: int, source: Source, activations, weight: float | None = None) -> Context:
    return Context(
        token_start=document * 100,
        document=document,
        split=Split.HELD_OUT,
        source=source,
        token_ids=tuple(range(len(activations))),
        tokens=("a",) * len(activations),
        activations=tuple(float(a) for a in activations),
        weight=weight,
        stratum=None if weight is None else 1 if max(activations) > 0 else 0,
    )


def _contexts(rng: np.random.Generator) -> list[Context]:
    """6 TOP, 6 silent RANDOM that stand for 500 windows each, 1 firing RANDOM, and 6 SAMPLED that stand for 4 each."""

    def firing(scale: float) -> list[float]:
        values = np.where(rng.random(_N_TOKENS) < 0.3, rng.random(_N_TOKENS) * scale, 0.0)
        values[rng.integers(_N_TOKENS)] = scale
        return values.tolist()

    top = [_context(i, Source.TOP, firing(6.0)) for i in range(6)]
    silent = [_context(10 + i, Source.RANDOM, [0.0] * _N_TOKENS, weight=500.0) for i in range(6)]
    hit = [_context(20, Source.RANDOM, firing(1.0))]
    sampled = [_context(30 + i, Source.SAMPLED, firing(2.0), weight=4.0) for i in range(6)]
    return top + silent + hit + sampled


def _simulate(contexts: list[Context], rng: np.random.Generator, noise: float = 1.0) -> list[Simulation]:
    return [
        Simulation(c, tuple(np.clip(np.array(c.activations) * 1.5 + noise * rng.random(_N_TOKENS), 0, 10).tolist()))
        for c in contexts
    ]


@pytest.fixture
def simulations() -> list[Simulation]:
    rng = np.random.default_rng(0)
    return _simulate(_contexts(rng), rng)


def _null(simulations: list[Simulation], n: int = 20) -> list[list[tuple[float, ...]]]:
    rng = np.random.default_rng(1)
    return [[tuple(rng.random(_N_TOKENS).tolist()) for _ in simulations] for _ in range(n)]


def _by_name(scores: tuple[Score, ...]) -> dict[str, Score]:
    return {s.name: s for s in scores}


def _pooled(simulations, *sources):
    chosen = [s for s in simulations if s.context.source in sources and s.predicted is not None]
    return np.concatenate([s.context.activations for s in chosen]), np.concatenate([s.predicted for s in chosen])


def test_every_score_is_its_measure_on_its_contexts(simulations):
    scores = simulation_scores(simulations)
    assert [s.name for s in scores] == _NAMES
    by_name = _by_name(scores)
    main = _pooled(simulations, Source.TOP, Source.RANDOM)
    assert by_name["simulation"].value == pytest.approx(pearson(*main), abs=1e-12)
    assert by_name["simulation_top"].value == pytest.approx(pearson(*_pooled(simulations, Source.TOP)), abs=1e-12)
    random = pearson(*_pooled(simulations, Source.RANDOM))
    assert by_name["simulation_random"].value == pytest.approx(random, abs=1e-12)
    everything = pearson(*_pooled(simulations, *Source))
    assert by_name["simulation_all"].value == pytest.approx(everything, abs=1e-12)
    assert by_name["rsquared"].value == pytest.approx(rsquared(*main), abs=1e-12)
    assert by_name["abs_dev"].value == pytest.approx(abs_dev(*main), abs=1e-12)
    fires = main[0] > 0
    wins = np.mean([(p > n) + 0.5 * (p == n) for p in main[1][fires] for n in main[1][~fires]])
    assert by_name["auroc_token"].value == pytest.approx(wins, abs=1e-12)
    assert [s.n for s in scores] == [13, 6, 7, 12, 19, 13, 13, 13, 13, 13]
    assert all(s.n_failed == 0 for s in scores)


def test_average_precision_and_the_sequence_score_of_a_perfect_label(simulations):
    perfect = _by_name(simulation_scores([Simulation(s.context, s.context.activations) for s in simulations]))
    for name in _NAMES:
        assert perfect[name].value == pytest.approx(1.0)


def test_a_sequence_is_ranked_by_its_highest_prediction(simulations):
    # 5 on one token is above 4 on every token.
    peaked = [
        replace(s, predicted=(5.0, *(0.0,) * (_N_TOKENS - 1)) if s.context.peak > 0 else (4.0,) * _N_TOKENS)
        for s in simulations
    ]
    assert _by_name(simulation_scores(peaked))["auroc_sequence"].value == 1.0
    # The firing RANDOM context (document 20) is predicted below every silent one: it loses all its 6 pairs of 42.
    low = [replace(s, predicted=(0.0,) * _N_TOKENS) if s.context.document == 20 else s for s in simulations]
    assert _by_name(simulation_scores(low))["auroc_sequence"].value == pytest.approx(36 / 42)


def test_every_score_that_varies_has_an_interval_around_it(simulations):
    for score in simulation_scores(simulations):
        if score.name == "simulation_random":
            # Only one RANDOM context fires, so without it there is no score, and so no interval.
            assert (score.low, score.high) == (None, None)
        else:
            assert score.low <= score.value <= score.high
    wider = simulation_scores(simulations, confidence=0.99)[0]
    narrower = simulation_scores(simulations, confidence=0.8)[0]
    assert wider.low < narrower.low < narrower.high < wider.high


def test_a_wrong_label_scores_near_zero(simulations):
    rng = np.random.default_rng(7)
    wrong = [replace(s, predicted=tuple((10 * rng.random(_N_TOKENS)).tolist())) for s in simulations]
    scores = _by_name(simulation_scores(wrong, null=_null(wrong)))
    assert abs(scores["simulation"].value) < 0.25
    assert scores["simulation"].low < 0 < scores["simulation"].high
    assert scores["simulation"].null_p > 0.05
    assert 0.35 < scores["auroc_token"].value < 0.65


def test_the_weighted_score_estimates_the_whole_corpus(simulations):
    score = _by_name(simulation_scores(simulations))["simulation_weighted"]
    by_design = [s for s in simulations if s.context.weight is not None]
    copies = [s for s in by_design for _ in range(int(s.context.weight))]
    corpus = pearson(
        np.concatenate([s.context.activations for s in copies]), np.concatenate([s.predicted for s in copies])
    )
    assert score.value == pytest.approx(corpus, abs=1e-12)
    assert score.value < _by_name(simulation_scores(simulations))["simulation"].value - 0.2


def test_a_failed_simulation_is_left_out_and_counted_never_zeros(simulations):
    failed = [replace(s, predicted=None, reason="refused") if s.context.document in (0, 10) else s for s in simulations]
    scores = _by_name(simulation_scores(failed))
    assert (scores["simulation"].n, scores["simulation"].n_failed) == (11, 2)
    assert (scores["simulation_top"].n, scores["simulation_top"].n_failed) == (5, 1)
    assert (scores["simulation_weighted"].n, scores["simulation_weighted"].n_failed) == (11, 1)
    left = pearson(*_pooled(failed, Source.TOP, Source.RANDOM))
    assert scores["simulation"].value == pytest.approx(left, abs=1e-12)
    as_zeros = [replace(s, predicted=(0.0,) * _N_TOKENS) if s.predicted is None else s for s in failed]
    assert simulation_scores(as_zeros)[0].value != pytest.approx(left, abs=1e-3)


def test_the_windows_of_a_failed_context_are_represented_by_others_of_its_kind(simulations):
    sampled = [s for s in simulations if s.context.source is Source.SAMPLED]
    silent = [s for s in simulations if s.context.weight == 500.0]
    failed = [replace(s, predicted=None, reason="refused") for s in sampled[:3]]
    score = _by_name(simulation_scores([*failed, *sampled[3:], *silent]))["simulation_weighted"]
    # 3 SAMPLED contexts are left to stand for 24 firing windows.
    weights = np.repeat([8.0] * 3 + [500.0] * 6, _N_TOKENS)
    left = _pooled([*sampled[3:], *silent], Source.SAMPLED, Source.RANDOM)
    assert score.value == pytest.approx(pearson(*left, weights), abs=1e-12)


def test_null_and_baseline_are_scored_on_the_same_contexts(simulations):
    failed = [replace(s, predicted=None, reason="refused") if s.context.document == 1 else s for s in simulations]
    baseline = [tuple(0.5 * a + (i % 3) for i, a in enumerate(s.context.activations)) for s in failed]
    null = _null(failed, 25)
    scores = _by_name(simulation_scores(failed, baseline=baseline, null=null))
    main = scores["simulation"]

    def scored_on_main(predictions):
        return pearson(
            *_pooled(
                [replace(s, predicted=p) for s, p in zip(failed, predictions, strict=True) if s.predicted is not None],
                Source.TOP,
                Source.RANDOM,
            )
        )

    null_scores = [scored_on_main(p) for p in null]
    assert main.baseline_token_lookup == pytest.approx(scored_on_main(baseline), abs=1e-12)
    assert main.null_mean == pytest.approx(np.mean(null_scores), abs=1e-12)
    assert main.null_z == pytest.approx((main.value - np.mean(null_scores)) / np.std(null_scores, ddof=1))
    assert (main.null_p, main.null_n) == (pytest.approx(1 / 26), 25)
    weighted = scores["simulation_weighted"]
    assert weighted.null_n == 25
    assert weighted.baseline_token_lookup not in (None, main.baseline_token_lookup)
    others = [s for s in scores.values() if s not in (main, weighted)]
    assert all(s.null_n == 0 and s.baseline_token_lookup is None for s in others)


def test_null_labels_may_lack_predictions_and_constant_ones_do_not_count(simulations):
    null = [*_null(simulations, 21), [(2.0,) * _N_TOKENS for _ in simulations], [None for _ in simulations]]
    null[0][0] = None
    main = simulation_scores(simulations, null=null)[0]
    assert main.null_n == 21
    few = simulation_scores(simulations, null=null[2:])[0]
    assert (few.null_n, few.null_z, few.null_p) == (19, None, None)


def _reasons(simulations) -> dict[str, str | None]:
    return {s.name: s.reason for s in simulation_scores(simulations) if s.value is None}


def test_reasons_say_why_there_is_no_score(simulations):
    assert simulation_scores([])[0].reason == "no held-out contexts of this kind"
    failed = [replace(s, predicted=None, reason="refused") for s in simulations]
    assert set(_reasons(failed).items()) == {(name, "every simulation failed") for name in _NAMES}
    assert set(_reasons(simulations[:1]).values()) == {"fewer than 2 sequences", "no held-out contexts of this kind"}

    flat = [replace(s, predicted=(3.0,) * _N_TOKENS) for s in simulations]
    assert _reasons(flat) == {n: "the simulation is constant" for n in _NAMES if n.startswith("simulation")}

    silent = [s for s in simulations if s.context.weight == 500.0]
    reasons = _reasons(silent)
    assert reasons["simulation"] == "the feature is constant on the held-out contexts"
    assert reasons["rsquared"] == reasons["abs_dev"] == "the feature is silent on the held-out contexts"
    assert reasons["auroc_token"] == "the feature fires nowhere in the held-out contexts"

    top = [s for s in simulations if s.context.source is Source.TOP]
    assert _reasons(top)["auroc_sequence"] == "the feature fires everywhere in the held-out contexts"


def test_the_weighted_score_needs_both_kinds_of_context(simulations):
    for kind, weight in (("silent", 500.0), ("firing", 4.0)):
        failed = [
            replace(s, predicted=None, reason="refused") if s.context.weight == weight else s for s in simulations
        ]
        assert _reasons(failed)["simulation_weighted"] == f"every simulation of the {kind} contexts failed"


def test_contexts_of_one_document_are_one_sequence_to_the_interval(simulations):
    """Each context twice, in the same document, is no more evidence than once; in other documents it would be."""
    once = simulation_scores(simulations)[0]
    twice = simulation_scores([*simulations, *simulations])[0]
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    elsewhere = [replace(s, context=replace(s.context, document=s.context.document + 1000)) for s in simulations]
    more = simulation_scores([*simulations, *elsewhere])[0]
    assert more.high - more.low < 0.9 * (once.high - once.low)


def test_the_same_seed_gives_the_same_scores():
    rng = np.random.default_rng(3)
    contexts = [replace(c, document=c.document + 1000 * i) for i in range(3) for c in _contexts(rng)]
    simulations = _simulate(contexts, rng)
    assert simulation_scores(simulations, seed=1) == simulation_scores(simulations, seed=1)
    assert simulation_scores(simulations, seed=1)[0].low != simulation_scores(simulations, seed=2)[0].low


def test_predictions_that_do_not_fit_the_contexts_are_refused(simulations):
    with pytest.raises(MismatchError, match="predictions for 1 of 19 contexts"):
        simulation_scores(simulations, baseline=[None])
    with pytest.raises(MismatchError, match="2 predictions for a context of 8 tokens"):
        simulation_scores(simulations, null=[[(1.0, 2.0) for _ in simulations]])
    broken = [replace(simulations[0], predicted=(float("nan"),) * _N_TOKENS), *simulations[1:]]
    with pytest.raises(InputError, match="predicts NaN"):
        simulation_scores(broken)
