"""The columns beside the rows: they follow every change, and give the numbers that the rows would give."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, replace
from statistics import median

import numpy as np
import pytest

from labeler.errors import InputError, NotFoundError
from labeler.recipe import Recipe
from labeler.records import LabeledFeature, Score, State
from labeler.schema import column_of
from labeler.score.null import benjamini_hochberg
from labeler.store import Store
from labeler.store.base import columns, summary
from labeler.store.base.summary import LabelSetSummary
from labeler.store.label_sets import compare
from labeler.store.label_sets.compare import compare_sets
from labeler.store.label_sets.scatter import scatter_of
from tests.results import failed, labeled, manifest, silent

N = 1000


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "PART", 64)


@pytest.fixture
def label_set(store: Store) -> int:
    return store.label_set_for(_world(), "/evidence", Recipe()).id


def _world() -> dict[str, object]:
    return manifest(sae={**manifest()["sae"], "n_features": N})


def _results(seed: int, features: range = range(N)) -> list[LabeledFeature]:
    rng = np.random.default_rng(seed)
    made = []
    for feature in features:
        kind = rng.random()
        score = None if kind < 0.1 else round(float(rng.uniform(-0.5, 0.98)), 2) + 0.005  # off the edges of bins
        text = f"label {rng.integers(5)}"
        made.append(silent(feature) if kind > 0.9 else failed(feature) if kind > 0.8 else labeled(feature, score, text))
    return made


def _counted(summary: LabelSetSummary) -> tuple[dict[str, int], int]:
    return summary.counts, summary.n_scored


def test_the_figures_are_those_of_the_rows(store: Store, label_set: int) -> None:
    store.save(label_set, _results(0))
    rows, figures = list(store.rows(label_set)), store.summary(label_set)
    scores = [r["score"] for r in rows if r["score"] is not None]
    assert figures.counts == {str(s): Counter(r["state"] for r in rows)[str(s)] for s in State}
    assert figures.median_score == pytest.approx(median(scores))
    assert figures.mean_score == pytest.approx(np.mean(scores))
    assert figures.histogram == tuple(np.histogram(scores, bins=20, range=(-1.0, 1.0))[0])
    better = [r["score"] > r["baseline_token_lookup"] + 1e-9 for r in rows if r["score"] is not None]
    assert figures.share_beating_baseline == pytest.approx(np.mean(better))
    assert figures.tokens_in == sum(r["tokens_in"] for r in rows)


def test_figures_are_kept_until_a_result_changes(store: Store, label_set: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(label_set, _results(0))
    first = store.summary(label_set)
    with monkeypatch.context() as without:
        without.setattr(summary, "read_columns", None)  # to count again would break down
        assert store.summary(label_set) == first
    store.save(label_set, [labeled(i, 0.99) for i in range(500, 510)])
    second = store.summary(label_set)
    assert second.histogram[-1] == first.histogram[-1] + 10 - sum(
        r.score("simulation") is not None and (r.score("simulation").value or 0) >= 0.9 for r in _results(0)[500:510]
    )
    assert second == store.summary(label_set)


def test_only_what_changed_is_read_again(store: Store, label_set: int) -> None:
    store.save(label_set, _results(0))
    store.count_changes(label_set)
    store.save(label_set, [labeled(63), labeled(64), labeled(999)])
    with store.database.reading() as connection:
        assert columns.changed_parts(connection, label_set) == [0, 1, 15]
    store.count_changes(label_set)
    with store.database.reading() as connection:
        assert columns.changed_parts(connection, label_set) == []


def test_states_are_counted_from_rows_only_where_they_changed(store: Store, label_set: int) -> None:
    other = store.label_set_for(_world(), "/evidence", Recipe(seed=1)).id

    def counted() -> Counter[str]:
        with store.database.reading() as connection:
            return columns.count_states(connection)

    assert counted() == Counter()
    store.save(label_set, _results(0))
    store.save(other, _results(1, range(100)))
    of_rows = [Counter(row["state"] for row in store.rows(which)) for which in (label_set, other)]
    assert counted() == of_rows[0] + of_rows[1], "nothing is in columns yet"
    store.count_changes(label_set)
    assert counted() == of_rows[0] + of_rows[1]
    Store(store.database).save(label_set, [failed(i) for i in range(60, 70)])
    store.save(label_set, [silent(65)])
    expected = Counter(row["state"] for which in (label_set, other) for row in store.rows(which))
    assert counted() == expected, "two parts have changed, one of them by two writers"
    store.count_changes(label_set)
    with store.database.writing() as connection:
        connection.exec_driver_sql(f"DELETE FROM result WHERE label_set_id = {label_set}")
    assert counted() == expected, "the rows of what has not changed are not asked"


def test_a_change_while_it_is_counted_is_not_lost(
    store: Store, label_set: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most adverse moment: rows have been read, and another saves before the mark is taken away."""
    if store.database.dialect == "sqlite":
        pytest.skip("SQLite has one writer at a time: there is no such moment")
    store.save(label_set, [labeled(1, 0.25)])
    read, other = columns._rows_of, Store(store.database)

    def read_and_be_overtaken(*place: object) -> object:
        rows = read(*place)  # type: ignore[arg-type]
        monkeypatch.setattr(columns, "_rows_of", read)
        other.save(label_set, [labeled(2, 0.75)])
        store.save(label_set, [labeled(3, 0.75)])
        return rows

    monkeypatch.setattr(columns, "_rows_of", read_and_be_overtaken)
    store.count_changes(label_set)
    assert store.summary(label_set).n_scored == 3


def test_figures_are_right_after_writers_and_readers_at_once(store: Store, label_set: int) -> None:
    writers = [Store(store.database) for _ in range(3)]
    errors: list[BaseException] = []

    def write(seed: int, writer: Store) -> None:
        try:
            for low in range(0, 300, 20):
                # Against the order of features, across parts, and over one another.
                writer.save(label_set, _results(seed, range(low + 39, low - 1, -1)))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(seed, w)) for seed, w in enumerate(writers)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.summary(label_set)
    for thread in threads:
        thread.join()
    assert not errors
    states = Counter(row["state"] for row in store.rows(label_set))
    found = store.summary(label_set)
    assert {k: n for k, n in found.counts.items() if n and k != "pending"} == dict(states)


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    rng = np.random.default_rng(0)
    for n, power in ((1, 1), (7, 3), (400, 1), (400, 4), (400, 12)):
        p = np.round(rng.random(n) ** power, 3)
        rates = benjamini_hochberg(p.tolist())
        assert summary._discoveries(p) == sum(q is not None and q <= 0.05 for q in rates)
    assert summary._discoveries(np.empty(0)) is None


def test_label_sets_with_different_features_are_compared_where_both_have_one(store: Store, label_set: int) -> None:
    other = store.label_set_for(_world(), "/evidence", Recipe(seed=1)).id
    a = {r.feature_index: r for r in _results(1, range(0, N, 2))}
    b = {r.feature_index: r for r in _results(2, range(0, N, 3))}
    store.save(label_set, list(a.values()))
    store.save(other, list(b.values()))
    compared = compare_sets(store, label_set, other, limit=7)
    both = sorted(a.keys() & b.keys())
    scores = {
        f: (x.value, y.value) for f in both if (x := a[f].score("simulation")) and (y := b[f].score("simulation"))
    }
    pairs = {f: (x, y) for f, (x, y) in scores.items() if x is not None and y is not None}
    x, y = np.array(list(pairs.values())).T
    assert (compared.n_both, compared.n_scored) == (len(both), len(pairs))
    assert compared.states["labeled"]["silent"] == sum(
        a[f].state is State.LABELED and b[f].state is State.SILENT for f in both
    )
    assert compared.n_same_text == sum(
        a[f].label is not None and b[f].label is not None and a[f].label.text == b[f].label.text for f in both
    )
    assert compared.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert compared.mean_difference == pytest.approx(np.mean(y - x))
    assert compared.n_apart_in_a == int(np.sum(x - 0.1 > y + 0.1))
    falling = sorted(pairs, key=lambda f: (-abs(pairs[f][1] - pairs[f][0]), f))
    assert [d.feature_index for d in compared.largest] == falling[:7]
    assert asdict(compared.largest[0])["score_a"] == pairs[falling[0]][0]


def test_a_comparison_is_kept_until_a_result_changes(
    store: Store, label_set: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = store.label_set_for(_world(), "/evidence", Recipe(seed=1)).id
    store.save(label_set, _results(1))
    store.save(other, _results(2))
    first = compare_sets(store, label_set, other)
    with monkeypatch.context() as without:
        without.setattr(compare, "read_columns", None)  # to compare again would break down
        assert compare_sets(store, label_set, other) == first
    assert len(compare_sets(store, label_set, other, limit=3).largest) == 3
    back = compare_sets(store, other, label_set)
    assert (back.n_higher_in_a, back.n_higher_in_b) == (first.n_higher_in_b, first.n_higher_in_a)
    for changed in (label_set, other):
        before = compare_sets(store, label_set, other)
        store.save(changed, [labeled(5, -0.99 if changed == other else 0.99, "another text")])
        after = compare_sets(store, label_set, other)
        assert after != before
    assert after.largest[0].feature_index == 5
    assert after.largest[0].label_b == "another text"


def test_every_score_is_read_from_the_columns(store: Store, label_set: int) -> None:
    extra = [Score("length", None, "too short"), Score("length", 3.0, low=1.0, n=4), Score("length", 5.0, n=4)]
    results = [replace(labeled(i, 0.5), scores=(*labeled(i, 0.5).scores, score)) for i, score in enumerate(extra)]
    store.save(label_set, [*results, labeled(100, None), silent(200)])
    assert store.named_scores(label_set, "length") == ([3.0, 5.0], {"too short": 1})
    assert store.named_scores(label_set, "simulation") == ([0.5] * 3, {"the simulation is constant": 1})
    figures = store.summary(label_set)
    assert list(figures.medians) == ["score", "score_weighted", "length"]
    assert figures.medians["length"].value == 4.0
    with store.database.reading() as connection:
        assert columns.scores_in(connection, label_set)["length"] == {"value", "low", "n", "reason"}
    # Of results that have changed since, the rows say it.
    store.save(label_set, [*(labeled(i) for i in range(3)), replace(labeled(300), scores=(Score("width", 1.0),))])
    with store.database.reading() as connection:
        assert set(columns.scores_in(connection, label_set)) == {"simulation", "simulation_weighted", "width"}
    assert list(store.summary(label_set).medians) == ["score", "score_weighted", column_of("width")]


def test_label_sets_without_results_compare_to_nothing(store: Store, label_set: int) -> None:
    other = store.label_set_for(_world(), "/evidence", Recipe(seed=1)).id
    store.save(other, [labeled(1)])
    compared = compare_sets(store, label_set, other)
    assert (compared.n_both, compared.largest, compared.mean_difference) == (0, (), None)


def test_a_scatter_has_a_point_for_every_feature(store: Store, label_set: int) -> None:
    store.save(label_set, _results(0))
    rows, points = list(store.rows(label_set)), scatter_of(store, label_set)
    assert points.feature_index.tolist() == [row["feature_index"] for row in rows]
    assert [str(columns.STATES[place]) for place in points.state] == [row["state"] for row in rows]
    for name, values in (
        ("score", points.score),
        ("score_low", points.low),
        ("score_high", points.high),
        ("density", points.density),
    ):
        assert [None if np.isnan(v) else v for v in values] == [row[name] for row in rows], name
    with pytest.raises(NotFoundError):
        scatter_of(store, 99)


def test_label_sets_are_compared_by_any_score_that_they_have(store: Store, label_set: int) -> None:
    other = store.label_set_for(_world(), "/evidence", Recipe(seed=1)).id
    store.save(label_set, [_scored(f, 0.5, f / 10) for f in range(6)])
    store.save(other, [_scored(f, 0.5, 0.9) for f in range(6)])
    assert compare.compared_scores(store, label_set, other)[0] == "score"
    assert "detection" in compare.compared_scores(store, label_set, other)
    assert compare_sets(store, label_set, other).largest == ()
    found = compare_sets(store, label_set, other, score="detection")
    assert (found.score, found.n_scored, found.n_higher_in_b) == ("detection", 6, 6)
    assert found.mean_difference == pytest.approx(0.9 - 0.25)
    first = found.largest[0]
    assert (first.feature_index, first.score_a, first.interval_b) == (0, 0.0, pytest.approx((0.8, 1.0)))
    assert compare_sets(store, label_set, other).score == "score"  # each is kept by itself
    with pytest.raises(InputError, match="neither label set has it; they have score, "):
        compare_sets(store, label_set, other, score="fuzzing")


def _scored(feature: int, main: float, detection: float) -> LabeledFeature:
    result = labeled(feature, main, "text")
    low, high = detection - 0.1, detection + 0.1
    return replace(result, scores=(*result.scores, Score("detection", detection, low=low, high=high, n=20)))
