from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from labeler.errors import NotFoundError, StorageError
from labeler.recipe import Recipe
from labeler.records import Candidate, Context, Origin, Score
from labeler.store import Store, open_store
from labeler.store.jobs.jobs import Jobs
from labeler.store.label_sets.read import result_from_row
from labeler.store.people.keys import create_key
from labeler.store.tables.label_sets import now
from labeler.store.tables.service import REVIEWS
from labeler.terms import Scope
from tests.results import N_FEATURES, context, failed, labeled, manifest, silent

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def label_set(store: Store) -> int:
    return store.label_set_for(manifest(), "/evidence", Recipe()).id


def is_modelled(name: str | None, kind: str, _parents: object) -> bool:
    """The full-text index differs by database, and stands in its migration only."""
    return kind != "table" or not str(name).startswith("label_search")


def test_migrations_make_what_the_models_say(store: Store) -> None:
    with store.database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": is_modelled})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_opening_again_changes_nothing(url: str) -> None:
    first = open_store(url)
    label_set = first.label_set_for(manifest(), "/evidence", Recipe())
    first.close()
    second = open_store(url)
    assert second.label_set(label_set.id) == label_set
    second.close()


def test_one_label_set_for_one_recipe_on_one_evidence(store: Store) -> None:
    one = store.label_set_for(manifest(), "/evidence", Recipe())
    assert store.label_set_for(manifest(), "/moved", Recipe()).id == one.id
    assert store.label_set(one.id).evidence_path == "/moved"
    assert store.label_set_for(manifest(), "/evidence", Recipe(seed=1)).id != one.id
    assert store.label_set_for(manifest(hash="other"), "/evidence", Recipe()).id != one.id
    assert len(store.label_sets()) == 3
    assert Recipe.from_dict(store.recipe_of(one.id)) == Recipe()
    assert store.manifest_of(one.id) == manifest()
    assert store.newest_label_set().id == store.label_sets()[-1].id


def context_of(stored: dict[str, Any]) -> Context:
    return context(stored["token_start"])


CHOSEN = Origin(
    "contrastive",
    "the best of 2 labels on 10 contexts set aside for the choice",
    revised=True,
    candidates=(
        Candidate("the token `x`", "best of K", True, 0.75, None, 10),
        Candidate("`y`", "best of K", False, None, "the simulation is constant", 10),
    ),
)


@pytest.mark.parametrize(
    "result",
    [labeled(3), labeled(4, None), labeled(7, origin=CHOSEN), silent(5), failed(6)],
    ids=lambda r: str(r.state),
)
def test_what_is_read_is_what_was_saved(store: Store, label_set: int, result: Any) -> None:
    store.save(label_set, [result])
    row = store.row(label_set, result.feature_index)
    assert row is not None
    assert result_from_row(row, context_of) == result
    assert store.row(label_set, 49) is None


def test_an_undefined_score_is_null_with_its_reason(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(0, None)])
    row = store.row(label_set, 0)
    assert row is not None
    assert row["score"] is None
    assert row["score_reason"] == "the simulation is constant"


def test_saving_again_replaces(store: Store, label_set: int) -> None:
    store.save(label_set, [failed(1), labeled(2)])
    store.save(label_set, [labeled(1, 0.75)])
    store.save(label_set, [])
    assert [(r["feature_index"], r["state"], r["score"]) for r in store.rows(label_set)] == [
        (1, "labeled", 0.75),
        (2, "labeled", 0.5),
    ]


def test_a_failure_replaces_failures_only(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(0), silent(1), failed(2)])
    store.save(label_set, [failed(i, "refused: again") for i in range(4)])
    assert [(r["state"], r["reason"]) for r in store.rows(label_set)] == [
        ("labeled", None),
        ("silent", "never fired on 1,000 tokens"),
        ("failed", "refused: again"),
        ("failed", "refused: again"),
    ]


def test_rows_come_in_feature_order_across_pages(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(i) for i in reversed(range(25))])
    assert [r["feature_index"] for r in store.rows(label_set, batch=4)] == list(range(25))


def test_finished_leaves_out_what_failed(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(0), silent(1), failed(2), labeled(9)])
    assert store.finished(label_set, 0, 5) == {0, 1}
    assert store.finished(label_set, 0, 5, retry_failed=False) == {0, 1, 2}


def test_best_and_worst_have_scores(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(i, s) for i, s in enumerate([0.3, None, 0.9, -0.2, 0.9])] + [silent(10)])
    assert [r["feature_index"] for r in store.best(label_set, 3)] == [2, 4, 0]
    assert [r["feature_index"] for r in store.worst(label_set, 2)] == [3, 0]


def test_the_summary_counts_everything_once(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(0, 0.2), labeled(1, 0.6), labeled(2, 1.0), labeled(3, None), silent(4), failed(5)])
    summary = store.summary(label_set)
    assert summary.counts == {"pending": N_FEATURES - 6, "labeled": 4, "silent": 1, "rare": 0, "failed": 1}
    assert (summary.n_scored, summary.median_score) == (3, 0.6)
    assert summary.mean_score == pytest.approx(0.6)
    assert sum(summary.histogram) == 3
    assert summary.histogram[-1] == 1
    assert summary.undefined == {"the simulation is constant": 1}
    assert summary.share_beating_baseline == pytest.approx(2 / 3)
    assert summary.n_discoveries == 3
    assert summary.requests == 9
    assert summary.tokens_in == 4 * 3_000_000_000 + 100
    assert summary.cost_usd is None, "one price is unknown, so the sum is"


def test_medians_have_an_interval_from_the_order_of_the_scores(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(i, s / 40) for i, s in enumerate(range(40))] + [labeled(40, None)])
    median = store.summary(label_set).medians["score"]
    assert (median.value, median.n) == (pytest.approx(19.5 / 40), 40)
    # P(B(40, 1/2) < 14) = .0192 and P(B(40, 1/2) < 15) = .0403: the 14th lowest and the 14th highest.
    assert (median.low, median.high) == (pytest.approx(13 / 40), pytest.approx(26 / 40))


def test_few_labels_have_a_median_without_an_interval(store: Store, label_set: int) -> None:
    store.save(label_set, [labeled(i, s) for i, s in enumerate((0.1, 0.9, 0.3))])
    median = store.summary(label_set).medians["score"]
    assert (median.value, median.low, median.high, median.n) == (0.3, None, None, 3)


def test_scores_without_a_column_are_found_by_name(store: Store, label_set: int) -> None:
    more = (Score("intervention", 0.75, n=16), Score("intervention", None, reason="not steered"))
    results = [replace(labeled(i, 0.5), scores=(*labeled(i, 0.5).scores, more[i // 2])) for i in range(3)]
    store.save(label_set, [*results, labeled(3, 0.5), silent(4)])
    assert store.named_scores(label_set, "intervention") == ([0.75, 0.75], {"not steered": 1})


def test_an_empty_label_set_has_no_numbers(store: Store, label_set: int) -> None:
    summary = store.summary(label_set)
    assert summary.median_score is summary.mean_score is summary.n_discoveries is summary.share_beating_baseline is None
    assert summary.cost_usd == 0.0


def test_what_is_not_there_is_named(store: Store, label_set: int) -> None:
    things: dict[str, Any] = {"label set": store.label_set, "evidence": store.evidence, "job": Jobs(store).get}
    for what, find in things.items():
        with pytest.raises(NotFoundError, match=f"{what} 77: there is none here") as refused:
            find(77)
        assert store.database.name not in str(refused.value), "a reader of the API is told no address of the database"
    for ask in (store.recipe_of, store.manifest_of, store.summary, lambda i: list(store.rows(i))):
        with pytest.raises(NotFoundError, match="label set 77"):
            ask(77)


def test_an_error_of_the_database_tells_no_values(store: Store, label_set: int) -> None:
    no_such_set = {"label_set_id": 77, "feature_index": 1, "verdict": "accept", "created_at": now()}
    with pytest.raises(IntegrityError) as refused, store.database.writing() as connection:
        connection.execute(REVIEWS.insert().values(**no_such_set, reviewer="somebody in particular"))
    assert "somebody in particular" not in str(refused.value)


def test_an_empty_database_says_what_to_run(store: Store) -> None:
    with pytest.raises(NotFoundError, match="labeler label"):
        store.newest_label_set()


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}"])
def test_the_database_is_its_owner_s_alone(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "new"
    if "://" in form:
        folder.mkdir(mode=0o700)
    before = os.umask(0)
    try:
        store = open_store(form.format(folder / "labeler.db"), pooled=True)
        store.label_set_for(manifest(), "/evidence", Recipe())
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
        store.close()
    finally:
        os.umask(before)
    assert modes == {"new": 0o700, "labeler.db": 0o600, "labeler.db-wal": 0o600, "labeler.db-shm": 0o600}


def test_reading_needs_no_lock_and_no_permission_to_write(tmp_path: Path, migrated_file: Path) -> None:
    path = tmp_path / "labels.db"
    shutil.copy(migrated_file, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # one who writes for long
        store = open_store(str(path))
        assert store.label_sets() == []
        store.close()
    read_only = open_store(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert read_only.label_sets() == []
    with pytest.raises(StorageError, match=r"can only be read; .* name the copy with --db"):
        create_key(read_only, "ann", Scope.READ)
    read_only.close()


def test_a_set_that_is_there_is_found_by_its_recipe(store: Store) -> None:
    made = store.label_set_for(manifest(), "/evidence", Recipe())
    assert store.label_set_like(made.evidence_hash, made.recipe_hash) == made
    assert store.label_set_like(made.evidence_hash, "another") is None
