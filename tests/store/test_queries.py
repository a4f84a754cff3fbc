"""What the service reads, on both databases: pages, look-ups, search, comparison, reviews, keys."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Table, event, inspect

from labeler.errors import InputError, MismatchError, NotFoundError
from labeler.evidence.store import BY_OTHERS
from labeler.recipe import Recipe
from labeler.records import LabeledFeature, Score, State
from labeler.store import Store
from labeler.store.base.cursors import make_cursor, read_cursor
from labeler.store.base.database import Database
from labeler.store.base.rows import row_of
from labeler.store.jobs.activations import readable_evidence
from labeler.store.label_sets import catalogue, review_state
from labeler.store.label_sets import queries as queries_module
from labeler.store.label_sets import search as search_module
from labeler.store.label_sets.batch_get import batch_get
from labeler.store.label_sets.compare import compare_sets
from labeler.store.label_sets.queries import (
    Bound,
    LabelFilter,
    Reviewed,
    Sort,
    labels_of_feature,
    list_labels,
    one_label,
)
from labeler.store.label_sets.search import search_labels
from labeler.store.people.reviews import add_review
from labeler.store.tables.columns import CHANGES, COLUMNS
from labeler.store.tables.imported import NO_FOLDER
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS, SAES, now
from labeler.terms import Choose, Verdict
from tests.results import failed, labeled, manifest, silent, statistics

OTHER_SAE = manifest()["sae"] | {"sha256": "b" * 64}


def with_density(feature: LabeledFeature, n_firings: int) -> LabeledFeature:
    return replace(feature, statistics=statistics(n_firings))


def with_length(feature: LabeledFeature, length: float | None) -> LabeledFeature:
    """The feature with one more score; every second one has no interval."""
    if length is None:
        return replace(feature, scores=(*feature.scores, Score("length", None, "not measured")))
    ends = {} if feature.feature_index % 2 else {"low": length - 1, "high": length + 2}
    return replace(feature, scores=(*feature.scores, Score("length", length, **ends)))


@pytest.fixture
def sets(store: Store) -> tuple[int, int, int]:
    """Two label sets of SAE 1, one of SAE 2; many equal scores and densities, so that ties must be broken."""
    rng = random.Random(0)
    ids = []
    for number, changes in enumerate([{}, {}, {"hash": "other", "sae": OTHER_SAE}]):
        recipe = Recipe.from_names("lookup") if number == 1 else Recipe.from_names("openai:m")
        info = store.label_set_for(manifest(**changes), "/evidence", recipe)
        results = [
            with_length(
                with_density(
                    labeled(
                        i,
                        rng.choice([None, 0.1, 0.2, 0.5, 0.9]),
                        rng.choice(["running water", "the year", "years of rain"]),
                    ),
                    rng.choice([5, 50, 500]),
                ),
                None if number == 1 else rng.choice([None, 1.0, 2.0, 7.0]),
            )
            for i in range(30)
        ]
        store.save(info.id, [*results, silent(30), failed(31), failed(32)])
        ids.append(info.id)
    return ids[0], ids[1], ids[2]


def other_sae(store: Store) -> int:
    """Ids have gaps in PostgreSQL, where an insert that finds its row there uses one up."""
    return catalogue.find_sae(store, "b" * 64).id


def everything(store: Store, where: LabelFilter, sort: str, limit: int = 23) -> list[dict[str, Any]]:
    rows, cursor = [], None
    while True:
        page = list_labels(store, where, sort, limit, cursor, with_scores=True)
        assert len(page.rows) <= limit
        rows += page.rows
        cursor = page.next_cursor
        if cursor is None:
            return rows


FILTERS = [
    LabelFilter(),
    LabelFilter(sae=1),
    LabelFilter(label_set=2),
    LabelFilter(state=State.FAILED),
    LabelFilter(explainer="lookup"),
    LabelFilter(recipe=Recipe.from_names("openai:m").hash, score_max=0.5),
    LabelFilter(sae=1, score_min=0.2, density_min=0.04),
    LabelFilter(score_low_min=0.35, density_max=0.1),
    LabelFilter(score_high_max=0.4, state=State.LABELED),
    LabelFilter(text="year"),
    LabelFilter(label_set=1, text='"of rain" -running', score_min=0.2),
    LabelFilter(width_max=0.3),
    LabelFilter(width_max=0.3, text="year", sae=1),
    *(LabelFilter(reviewed=reviewed) for reviewed in Reviewed),
    LabelFilter(reviewed=Reviewed.ACCEPTED, text="year", density_min=0.01),
    LabelFilter(reviewed=Reviewed.NO, label_set=1, text="year"),
]
BOUNDED = [
    LabelFilter(bounds=(Bound("length", "min", 2.0),)),
    LabelFilter(bounds=(Bound("length_low", "min", 1.0), Bound("length_width", "max", 3.0)), score_min=0.2),
    LabelFilter(bounds=(Bound("length", "max", 2.0), Bound("score_null_p", "max", 0.05)), text="year"),
    LabelFilter(bounds=(Bound("length", "max", 2.0),), reviewed=Reviewed.YES, width_max=0.3),
    LabelFilter(bounds=(Bound("detection", "min", 0.0),)),
]
OTHER_SORTS = ("length", "-length", "-length_high", "-score_low", "detection")
QUERIES = [
    *((where, sort) for where in FILTERS for sort in Sort),
    *((where, sort) for where in BOUNDED for sort in (Sort.INDEX, Sort.SCORE_FALLING, "length")),
    *((where, sort) for where in (*FILTERS[:2], BOUNDED[0]) for sort in OTHER_SORTS),
]


def reviewed(store: Store) -> dict[tuple[int, int], str]:
    """What people have said, at last, of labels as they are now."""
    said = {
        **{(1, i): Verdict.ACCEPT for i in range(5)},
        **{(1, i): Verdict.REJECT for i in range(5, 8)},
        **{(2, i): Verdict.CORRECTED for i in range(12)},
        (2, 31): Verdict.CORRECTED,
    }
    add_review(store, 1, 0, Verdict.REJECT, "ann")
    for (label_set, feature), verdict in said.items():
        add_review(
            store, label_set, feature, verdict, "ben", "years by a person" if verdict is Verdict.CORRECTED else None
        )
    store.save(1, [labeled(1, 0.5, "a new text, of which nobody has said anything")])
    return {place: verdict for place, verdict in said.items() if place != (1, 1)}


@pytest.mark.parametrize("few", [20_000, 3])
def test_pages_hold_what_the_filter_means_once_and_in_order(
    store: Store, sets: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(search_module, "_FEW", dict.fromkeys(search_module._FEW, few))
    monkeypatch.setattr(review_state, "_FEW", few)  # with 3, common words take the other way
    other = other_sae(store)
    verdicts = reviewed(store)
    with store.database.writing() as connection:
        connection.execute(RESULTS.update().where(RESULTS.c.feature_index % 3 == 0).values(score_low=0.0))
    stored = {
        s: [
            {**row, "sae": other if s == 3 else 1, "verdict": verdicts.get((s, row["feature_index"]))}
            for row in store.rows(s)
        ]
        for s in sets
    }
    for where, sort in QUERIES:
        wanted = [row for rows in stored.values() for row in rows if holds(row, where)]
        if sort != Sort.INDEX:
            wanted = [row for row in wanted if value_of(row, sort.removeprefix("-")) is not None]
        wanted.sort(key=lambda row, s=sort: place(row, s), reverse=sort.startswith("-"))
        got = everything(store, where, sort)
        assert [place(row, sort) for row in got] == [place(row, sort) for row in wanted], (where, sort)
        assert all(row["sae"] == (other if row["label_set_id"] == 3 else 1) for row in got)


def place(row: dict[str, Any], sort: str) -> tuple[Any, ...]:
    at = (row["label_set_id"], row["feature_index"])
    return at if sort == Sort.INDEX else (value_of(row, sort.removeprefix("-")), *at)


def value_of(row: dict[str, Any], column: str) -> float | None:
    if column == "score_null_p" and row["score"] is None:
        return None  # a chance means nothing without a score
    if column in row:
        return row[column]
    name, _, part = column.partition("_")
    scores = row["scores"].values() if isinstance(row["scores"], dict) else row["scores"]
    score = next((score for score in scores if score["name"] == name), None)
    if score is None:
        return None
    if part == "width":
        return None if score.get("low") is None else score["high"] - score["low"]
    return score.get(part or "value")


def holds(row: dict[str, Any], where: LabelFilter) -> bool:
    explainer = "lookup" if row["label_set_id"] == 2 else "openai:m"

    def at_least(value: float | None, least: float | None) -> bool:
        return least is None or (value is not None and value >= least)

    def at_most(value: float | None, most: float | None) -> bool:
        return most is None or (value is not None and value <= most)

    return (
        where.sae in (None, row["sae"])
        and where.label_set in (None, row["label_set_id"])
        and where.state in (None, row["state"])
        and where.explainer in (None, explainer)
        and (where.recipe is None or explainer == "openai:m")
        and at_least(row["score"], where.score_min)
        and at_most(row["score"], where.score_max)
        and at_least(row["score_low"], where.score_low_min)
        and at_most(row["score_high"], where.score_high_max)
        and at_least(row["density"], where.density_min)
        and at_most(row["density"], where.density_max)
        and (where.width_max is None or (row["score"] is not None and row["score_high"] - row["score_low"] <= 0.3))
        and all(
            (at_least if bound.end == "min" else at_most)(value_of(row, bound.column), bound.value)
            for bound in where.bounds
        )
        and {
            None: True,
            Reviewed.YES: row["verdict"] is not None,
            Reviewed.NO: row["verdict"] is None,
            Reviewed.ACCEPTED: row["verdict"] == "accept",
            Reviewed.REJECTED: row["verdict"] == "reject",
            Reviewed.CORRECTED: row["verdict"] == "corrected",
        }[where.reviewed]
        and {
            None: True,
            "year": "year" in (row["label"] or ""),
            '"of rain" -running': "of rain" in (row["label"] or ""),
        }[where.text]
    )


def test_a_cursor_belongs_to_its_query(store: Store, sets: tuple[int, int, int]) -> None:
    cursor = list_labels(store, LabelFilter(sae=1), Sort.SCORE, 5).next_cursor
    assert cursor is not None
    with pytest.raises(InputError, match="another query"):
        list_labels(store, LabelFilter(sae=other_sae(store)), Sort.SCORE, 5, cursor)
    with pytest.raises(InputError, match="another query"):
        list_labels(store, LabelFilter(sae=1), Sort.DENSITY, 5, cursor)


@pytest.mark.parametrize("cursor", ["", "x", "W10", "bnVsbA", "WyJhIiwxXQ", "1" * 600, "[" * 400, "\u0661\u0662"])
def test_a_damaged_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InputError, match="cursor"):
        list_labels(store, LabelFilter(), Sort.INDEX, 5, cursor)


def test_too_many_sets_are_not_sorted_at_once(
    store: Store, sets: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries_module, "_MOST_SETS", 2)
    with pytest.raises(InputError, match="3 label sets match"):
        list_labels(store, LabelFilter(), Sort.SCORE)
    assert len(list_labels(store, LabelFilter()).rows) == 50


def test_a_look_up_answers_in_order_with_the_newest_or_the_best(store: Store, sets: tuple[int, int, int]) -> None:
    store.save(1, [labeled(40, 0.9, "old and good"), labeled(41, 0.3, "only here")])
    store.save(2, [labeled(40, 0.2, "new and bad"), failed(41)])
    pairs = [(1, 40), (other_sae(store), 40), (1, 41), (1, 30), (9, 1), (1, 40)]
    texts = [row and row["label"] for row in batch_get(store, pairs, choose=Choose.NEWEST)]
    assert texts == ["new and bad", None, "only here", None, None, "new and bad"]
    best = batch_get(store, pairs, choose=Choose.BEST)
    assert best[0] is not None
    assert best[0]["label"] == "old and good"
    assert batch_get(store, pairs, label_sets=[2])[2] is None
    assert batch_get(store, []) == []


def test_a_look_up_of_ten_thousand_is_one_statement_for_a_label_set(store: Store, sets: tuple[int, int, int]) -> None:
    found = batch_get(store, [(1, i) for i in range(10_000)])
    assert sum(row is not None for row in found) == 30


def test_a_feature_has_a_label_in_each_set(store: Store, sets: tuple[int, int, int]) -> None:
    labels = labels_of_feature(store, 1, 3)
    assert [row["label_set_id"] for row in labels] == [2, 1]
    assert labels[0]["scores"]["simulation_weighted"]["value"] == 0.25
    one = one_label(store, 1, 3)
    assert one is not None
    assert one["label"] == labels[1]["label"]
    assert one_label(store, 1, 99) is None


@pytest.mark.parametrize("number", [10**320, -(10**320), float("nan"), float("inf")])
def test_a_cursor_with_a_number_beyond_all_numbers_is_damaged(number: float) -> None:
    with pytest.raises(InputError, match="cursor: damaged"):
        read_cursor("query", make_cursor("query", (number, 1)), (float, int))
    assert read_cursor("query", make_cursor("query", (7, 1)), (float, int)) == (7.0, 1)


def test_many_saes_are_looked_up_by_one_query(store: Store, sets: tuple[int, int, int]) -> None:
    n_queries: list[str] = []

    def count(*asked: Any) -> None:
        n_queries.append(asked[2])

    pairs = [(1, 3), (other_sae(store), 4), *((sae, 0) for sae in range(100, 400))]
    event.listen(Engine, "before_cursor_execute", count)
    try:
        found = batch_get(store, pairs, label_sets=range(1, 2000))
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert [row is not None for row in found] == [True, True] + [False] * 300
    assert len(n_queries) < 10


def test_the_newest_evidence_is_the_newest_of_all(store: Store, sets: tuple[int, int, int]) -> None:
    same = {"sae_id": 1, "path": "/gathered", "created_at": now()}
    rows = [{**same, "hash": f"h{i}", "manifest": manifest()} for i in range(600)]
    by_others = {**same, "hash": "theirs", "manifest": manifest(**{BY_OTHERS: {}})}
    with store.database.writing() as connection:
        connection.execute(EVIDENCE.insert(), [*rows, by_others])
    assert readable_evidence(store, 1).hash == "h599"


def test_search_finds_what_was_saved_and_forgets_what_was_replaced(store: Store, sets: tuple[int, int, int]) -> None:
    store.save(1, [labeled(0, 0.5, "zebra crossings"), labeled(1, 0.5, "a zebra, and a zebra")])
    found = search_labels(store, "zebra", sets, 10)
    assert {(h.label_set_id, h.feature_index) for h in found.hits} == {(1, 0), (1, 1)}
    assert (found.n_hits, found.complete) == (2, True)
    assert found.hits[0].rank >= found.hits[1].rank
    store.save(1, [labeled(0, 0.5, "horses"), silent(1)])
    assert search_labels(store, "zebra", sets, 10).hits == ()
    assert [h.feature_index for h in search_labels(store, "horse", sets, 10).hits] == [0], "words are stemmed"


def test_a_search_means_the_same_in_both_databases(store: Store, sets: tuple[int, int, int]) -> None:
    texts = ["cats", "dogs", "cats or dogs", "blue sky", "sky blue"]
    store.save(1, [labeled(i, text=text) for i, text in enumerate(texts)])

    def found(words: str) -> list[int]:
        return sorted(h.feature_index for h in search_labels(store, words, [1], 10).hits)

    assert found("cats or dogs") == [2], "`or` is a word like any other"
    assert found('"cats or dogs"') == [2]
    assert found("cats -dogs") == [0]
    assert found('blue "sky"') == [3, 4]
    assert found('"blue sky"') == [3]
    assert found('sky -"blue sky"') == [4]
    assert found('dogs -"cats or dogs"') == [1]


def test_a_search_goes_over_any_number_of_label_sets(store: Store, sets: tuple[int, int, int]) -> None:
    store.save(1, [labeled(0, text="zebra")])
    store.save(3, [labeled(1, text="zebra")])
    many = [*range(3, 1502), 1]
    assert [(h.label_set_id, h.feature_index) for h in search_labels(store, "zebra", many, 10).hits] == [(1, 0), (3, 1)]
    assert search_labels(store, "zebra", range(4, 1504), 10).hits == ()
    assert [h.label_set_id for h in search_labels(store, "zebra", [2, 3], 10).hits] == [3]


def test_search_pages_hold_each_hit_once(store: Store, sets: tuple[int, int, int]) -> None:
    reviewed(store)
    everywhere = search_labels(store, "year", sets, 1000)
    paged, after = [], None
    while hits := search_labels(store, "year", sets, 4, after).hits:
        paged += hits
        after = hits[-1].position
    assert paged == list(everywhere.hits)
    assert len(paged) == everywhere.n_hits > 10
    assert {h.label_set_id for h in search_labels(store, "year", [2], 1000).hits} == {2}
    assert search_labels(store, "year", [], 10).hits == ()


def test_search_says_when_not_all_hits_were_ranked(
    store: Store, sets: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "RANKED_AT_MOST", 5)
    found = search_labels(store, "year", sets, 3)
    assert (len(found.hits), found.n_hits, found.complete) == (3, 5, False)


@pytest.mark.parametrize(
    "words",
    [
        '"',
        "year OR",
        "NEAR(a b)",
        "label: year",
        "year*",
        "a'; DROP TABLE result; --",
        "(year",
        "^year",
        "{a b}: c",
        "año 年 ٢",
    ],
)
def test_search_takes_any_words(store: Store, sets: tuple[int, int, int], words: str) -> None:
    if any(c.isalnum() for c in words):
        search_labels(store, words, sets, 5)
    else:
        with pytest.raises(InputError, match="expected a word"):
            search_labels(store, words, sets, 5)
    assert len(list(store.rows(1))) == 33


@pytest.mark.parametrize("words", ["", " ", "-year", "!!", "\x00"])
def test_a_search_for_nothing_is_refused(store: Store, words: str) -> None:
    with pytest.raises(InputError, match="expected a word to look for"):
        search_labels(store, words, [1], 5)


def test_two_label_sets_are_compared(store: Store, sets: tuple[int, int, int]) -> None:
    for label_set, scores in ((1, [0.1, 0.5, 0.9, None, 0.4]), (2, [0.5, 0.5, 0.75, 0.3, 0.5])):
        store.save(label_set, [labeled(100 + i, s, f"label {i if i < 2 else label_set}") for i, s in enumerate(scores)])
    with store.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM result WHERE feature_index < 100")
    compared = compare_sets(store, 1, 2, limit=2)
    assert (compared.n_both, compared.n_scored, compared.n_same_text) == (5, 4, 2)
    assert compared.states == {"labeled": {"labeled": 5}}
    assert compared.mean_difference == pytest.approx((0.4 + 0.0 - 0.15 + 0.1) / 4)
    assert (compared.n_higher_in_a, compared.n_higher_in_b) == (1, 2)
    assert (compared.n_apart_in_a, compared.n_apart_in_b) == (0, 1), "intervals are .1 to either side"
    assert compared.correlation == pytest.approx(0.857537, abs=1e-6), "as numpy.corrcoef has it"
    assert [d.feature_index for d in compared.largest] == [100, 102]
    with pytest.raises(MismatchError, match="different SAEs"):
        compare_sets(store, 1, 3)
    with pytest.raises(NotFoundError):
        compare_sets(store, 1, 9)


def test_saes_are_found_by_id_and_by_hash(store: Store, sets: tuple[int, int, int]) -> None:
    other = other_sae(store)
    assert catalogue.find_sae(store, str(other)).sha256 == "b" * 64
    assert catalogue.find_sae(store, "a" * 64).id == 1
    assert catalogue.find_sae(store, "b" * 8).id == other
    with pytest.raises(NotFoundError, match="SAE 77"):
        catalogue.find_sae(store, "77")
    for odd in ("", "aaaa", "²", "A" * 64, "a%" * 10):
        with pytest.raises(InputError, match="expected its id"):
            catalogue.find_sae(store, odd)
    store.label_set_for(manifest(hookpoint="layers.2", hash="third"), "/evidence", Recipe())
    with pytest.raises(InputError, match="several fit"):
        catalogue.find_sae(store, "a" * 64)
    assert [e.id for e in catalogue.list_evidence(store, 1, 0, 10)] == [1]
    assert catalogue.find_evidence(store, "other").sae_id == other
    assert [s.id for s in catalogue.list_sets(store, 1, 1, 10)] == [2]
    assert list(catalogue.sets_of(store, other)) == [3]


def test_of_many_the_newest_are_listed_and_what_is_asked_for(store: Store, sets: tuple[int, int, int]) -> None:
    imported = store.add_evidence(manifest(hash="third"), NO_FOLDER + "labels.csv")
    other = other_sae(store)
    first, last = (catalogue.find_evidence(store, hash_).id for hash_ in ("e" * 16, "other"))

    def evidence(limit: int, *also: int) -> list[tuple[int, int]]:
        return [(e.id, sae.id) for e, sae in catalogue.newest_gathered(store, limit, also)]

    assert evidence(9) == evidence(2, first, 99) == [(last, other), (first, 1)]
    assert evidence(1) == [(last, other)]
    assert evidence(1, first) == [(first, 1)]
    assert evidence(1, imported) == [(last, other)], "there is nothing to label from"
    assert [s.id for s in catalogue.newest_sets(store, None, 2)] == [sets[2], sets[1]]
    assert [s.id for s in catalogue.newest_sets(store, None, 2, [sets[0]])] == [sets[2], sets[0]]
    assert [s.id for s in catalogue.newest_sets(store, 1, 1, [sets[2]])] == [sets[1]], "of this SAE alone"
    assert [s.id for s in catalogue.newest_saes(store, 1)] == [other]
    assert [s.id for s in catalogue.newest_saes(store, 1, [1])] == [1]


def test_the_end_of_a_part(store: Store, sets: tuple[int, int, int]) -> None:
    assert catalogue.end_of_part(store, 1, -1, 10) == 9
    assert catalogue.end_of_part(store, 1, 9, 20) == 29
    assert catalogue.end_of_part(store, 1, 29, 3) is None, "the last part ends with the last row"


NOW = {"created_at": now()}


def _insert_known(connection: Connection, table: Table, values: dict[str, Any]) -> None:
    """A row of the columns that the table has at this version."""
    known = {column["name"] for column in inspect(connection).get_columns(table.name)}
    connection.execute(table.insert().values({name: value for name, value in values.items() if name in known}))


def test_a_database_of_the_version_before_keeps_its_labels_and_can_search_them(url: str) -> None:
    database = Database(url)
    with database.writing() as connection:
        config = Config()
        config.set_main_option("script_location", "labeler/store/migrations")
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
    before, label_set, recipe, found = Store(database), 1, Recipe(), manifest()
    first = labeled(0, 0.25, "kept through it")
    weighted = replace(first.scores[1], low=0.125, high=0.375)
    rows = [row_of(label_set, f) for f in (replace(first, scores=(first.scores[0], weighted)), silent(1))]
    sae = {"subject": "tiny", "revision": "1", **{k: v for k, v in found["sae"].items() if k != "prepend_bos"}}
    made = {"explainer": "lookup", "simulator": "lookup", "recipe": recipe.to_dict(), "recipe_hash": recipe.hash}
    with database.writing() as connection:
        _insert_known(connection, SAES, {"id": 1, "hookpoint": "layers.1 (input)", **sae})
        _insert_known(
            connection, EVIDENCE, {"id": 1, "hash": "e" * 16, "sae_id": 1, "path": "/e", "manifest": found, **NOW}
        )
        _insert_known(connection, LABEL_SETS, {"id": label_set, "evidence_id": 1, **made, **NOW})
        known = {column["name"] for column in inspect(connection).get_columns("result")}
        for row in rows:
            _insert_known(connection, RESULTS, row)
    database.migrate()
    assert [(r["score_weighted_low"], r["score_weighted_high"]) for r in before.rows(1)] == [
        (0.125, 0.375),
        (None, None),
    ]
    assert before.label_set(1).name == "tiny / sae"
    assert before.label_set(1).hookpoint == "layers.1:input"
    for row, kept in zip(rows, before.rows(label_set), strict=True):
        one, other = ({n: r[n] for n in known - {"created_at"}} for r in (row, kept))
        assert json.dumps(other, sort_keys=True) == json.dumps(one, sort_keys=True)
    # The columns of older versions held four scores; all are read again.
    before.summary(label_set)
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0014")
        connection.execute(CHANGES.delete())
        figures = {"states": {"labeled": 1, "silent": 1}}
        connection.execute(
            COLUMNS.update().where(COLUMNS.c.name == "figures").values(content=json.dumps(figures).encode())
        )
    database.migrate()
    assert before.summary(label_set).medians["score_weighted"].value == 0.25
    page = list_labels(before, LabelFilter(bounds=(Bound("score_weighted_low", "min", 0.1),)), "-score_weighted")
    assert [row["feature_index"] for row in page.rows] == [0]
    assert [h.feature_index for h in search_labels(before, "kept", [label_set], 5).hits] == [0]
    before.save(label_set, [labeled(0, 0.5, "replaced")])
    assert search_labels(before, "kept", [label_set], 5).hits == ()
    before.close()
