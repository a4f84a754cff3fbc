"""One rule chooses the label set that speaks where none is named, and every surface follows it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from labeler.errors import NotFoundError
from labeler.evidence.store import EvidenceFolder
from labeler.recipe import Recipe
from labeler.records import Label, LabeledFeature
from labeler.settings import Settings
from labeler.store import Store, open_store
from labeler.store.label_sets.batch_get import batch_get
from labeler.store.label_sets.choice import default_set, named_or_default
from labeler.store.label_sets.selection_facts import StoredFacts
from labeler.views import feature_view, joined_activations
from tests.results import failed, labeled, silent

LOOKUP = "lookup"


@dataclass(frozen=True)
class Situation:
    """Label sets in the order in which they were made, and which of them speaks: as a whole, and for feature 0."""

    sets: tuple[tuple[str, int, int], ...]  # who explains, and the features with a label from and up to
    whole: int
    feature: int
    n_failed: int = 0  # of the last set, after its labels


SITUATIONS = {
    "alone": Situation((("openai:a", 0, 3),), 1, 1),
    "the newest set failed": Situation((("openai:a", 0, 9), ("openai:b", 0, 0)), 1, 1, n_failed=9),
    "the newest set is empty": Situation((("openai:a", 0, 9), ("openai:b", 0, 0)), 1, 1),
    "a look-up is newer than an LLM's set": Situation((("openai:a", 0, 10), (LOOKUP, 0, 10)), 1, 1),
    "a few features failed, and a look-up has them": Situation((("openai:a", 0, 19), (LOOKUP, 0, 20)), 1, 1),
    "an LLM's set that covers little": Situation(((LOOKUP, 0, 20), ("openai:a", 0, 3)), 1, 2),
    "an LLM's set without the feature": Situation(((LOOKUP, 0, 20), ("openai:a", 5, 8)), 1, 1),
    "more labels, then newer": Situation((("openai:a", 0, 8), ("openai:b", 0, 7)), 1, 1),
    "equals": Situation((("openai:a", 0, 7), ("openai:b", 0, 7)), 2, 2),
    "a failed LLM's set and a look-up": Situation(((LOOKUP, 0, 9), ("openai:a", 0, 0)), 1, 1, n_failed=9),
}


def result(feature: int, explainer: str, label_set: int) -> LabeledFeature:
    return replace(labeled(feature), label=Label(f"words of set {label_set}", explainer))


def fill(store: Store, situation: Situation, folder: EvidenceFolder) -> None:
    for number, (explainer, first, end) in enumerate(situation.sets, start=1):
        recipe = Recipe() if explainer == LOOKUP else Recipe.from_names(explainer)
        label_set = store.label_set_for(folder.manifest, str(folder.folder), recipe)
        assert label_set.id == number
        store.save(number, [result(feature, explainer, number) for feature in range(first, end)])
    last = len(situation.sets)
    store.save(last, [failed(feature) for feature in range(situation.n_failed)])


@pytest.fixture(scope="module")
def filled(
    planted_evidence: Path, migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("choices")

    def made(name: str) -> Path:
        data = folder / name.replace(" ", "-")
        if not data.exists():
            data.mkdir()
            store = open_store(str(shutil.copy(migrated_file, data / "labeler.db")), migrate=False)
            fill(store, SITUATIONS[name], EvidenceFolder(planted_evidence))
            store.close()
        return data

    return made


@pytest.fixture(params=list(SITUATIONS))
def data(request: pytest.FixtureRequest, filled: Callable[[str], Path]) -> Path:
    return filled(request.param)


@pytest.fixture
def situation(data: Path) -> Situation:
    return next(s for name, s in SITUATIONS.items() if data.name == name.replace(" ", "-"))


@pytest.fixture
def store(data: Path) -> Iterator[Store]:
    store = open_store(str(data / "labeler.db"), migrate=False)
    yield store
    store.close()


def test_the_store_and_what_is_built_on_it(store: Store, situation: Situation, planted_evidence: Path) -> None:
    folder = EvidenceFolder(planted_evidence)
    assert default_set(store) == default_set(store, sae=1) == situation.whole
    assert default_set(store, evidence_hash=folder.hash) == named_or_default(store, None).id == situation.whole
    assert default_set(store, sae=1, feature=0) == situation.feature
    (label,) = batch_get(store, [(1, 0)])
    assert label is not None
    assert (label["label_set_id"], label["label"]) == (situation.feature, f"words of set {situation.feature}")
    answer = {"n_firing": 1, "tokens": [], "features": [{"feature_index": 0}]}
    assert joined_activations(store, 1, answer)["features"][0]["label"]["label_set_id"] == situation.feature
    assert feature_view(folder, 0, store).label_set == situation.feature


def test_the_service_and_its_pages(data: Path, situation: Situation) -> None:
    settings = Settings(database=str(data / "labeler.db"), data=data)
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as http:

        def answer(path: str) -> Any:
            return http.get(path).json()

        assert answer("/v1/sets/default")["id"] == answer("/v1/sets/default?sae=1")["id"] == situation.whole
        assert answer("/v1/sets/default?sae=1&feature=0")["id"] == situation.feature
        assert answer("/v1/features/1/0")["label_set_id"] == situation.feature
        (found,) = http.post("/v1/labels:lookup", json={"pairs": [[1, 0]]}).json()["labels"]
        assert found["label_set_id"] == situation.feature
        page = http.get("/saes/1", headers={"Accept": "text/html"}).text
        assert re.findall(r'<option value="(\d)" selected>', page)[0] == str(situation.whole)
        page = http.get("/saes/1/features/0", headers={"Accept": "text/html"}).text
        current = re.search(r'<tr aria-current="true">\s*<td><a href="[^"]*set=(\d)"', page)
        assert current is not None
        assert current[1] == str(situation.feature)
        assert f"label set {situation.feature}" in page, "the page names its set"


def test_the_command_line(  # type: ignore[no-untyped-def]
    run, data: Path, situation: Situation, planted_evidence: Path, tmp_path: Path
) -> None:
    shown = run("show", planted_evidence, 0, "--db", data / "labeler.db")
    assert f"From label set {situation.feature}," in shown.out
    assert (
        json.loads(run("show", planted_evidence, 0, "--db", data / "labeler.db", "--json").out)["label_set"]
        == situation.feature
    )
    done = run("export", "--db", data / "labeler.db", "--out", tmp_path / "x.jsonl")
    assert (done.code, done.err) == (0, "")
    assert f"features of label set {situation.whole} in" in done.out
    row = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert row["label_set_id"] == situation.whole
    assert f"Where none is named, label set {situation.whole} is used" in run("sets", "--db", data / "labeler.db").out


def test_a_feature_without_a_label_is_told_with_its_reason(store: Store, filled: Callable[[str], Path]) -> None:
    last = max(info.id for info in store.label_sets())
    store.save(last, [silent(40)])
    try:
        assert default_set(store, sae=1, feature=40) == last
        assert default_set(store, sae=1, feature=49) == default_set(store), "nobody tried it"
    finally:
        _forget(store, 40)


def _forget(store: Store, feature: int) -> None:
    from labeler.store.tables.label_sets import RESULTS

    with store.database.writing() as connection:
        connection.execute(RESULTS.delete().where(RESULTS.c.feature_index == feature))


def test_counts_follow_what_changes(planted_evidence: Path, migrated_file: Path, tmp_path: Path) -> None:
    """Counted from columns where those are up to date, and from rows where they are not."""
    store = open_store(str(shutil.copy(migrated_file, tmp_path / "labeler.db")), migrate=False)
    fill(store, SITUATIONS["more labels, then newer"], EvidenceFolder(planted_evidence))
    assert default_set(store) == 1
    for label_set in (1, 2):
        store.summary(label_set)
    assert default_set(store) == 1
    store.save(2, [result(20, "openai:b", 2), result(21, "openai:b", 2)])
    assert default_set(store) == 2, "before anything was counted again"
    store.summary(2)
    assert default_set(store) == 2
    assert default_set(store, leave_out=2) == 1
    facts = StoredFacts(store, label_set_id=2, evidence_id=1)
    assert len(facts.scored(lambda score, value: score > value, 0.0)) == 8, "scores of the other set"
    store.close()


def test_where_there_is_nothing_it_is_said(migrated_file: Path, tmp_path: Path) -> None:
    database = shutil.copy(migrated_file, tmp_path / "labeler.db")
    store = open_store(str(database), migrate=False)
    assert default_set(store) is None
    with pytest.raises(NotFoundError, match="holds no label set; make one with `labeler label`"):
        named_or_default(store, None)
    store.close()
    settings = Settings(database=str(database), data=tmp_path)
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as http:
        assert http.get("/v1/sets/default").status_code == 404
        assert http.get("/v1/sets/default?feature=1").status_code == 422


def test_several_saes_are_compared_by_their_labels(tmp_path: Path, migrated_file: Path) -> None:
    from tests.results import manifest

    store = open_store(str(shutil.copy(migrated_file, tmp_path / "labeler.db")), migrate=False)
    other = manifest(hash="b" * 16, sae={**manifest()["sae"], "sha256": "b" * 64})
    for number, (made, n) in enumerate(((manifest(), 5), (other, 9)), start=1):
        store.label_set_for(made, f"/{number}", Recipe())
        store.save(number, [result(feature, LOOKUP, number) for feature in range(n)])
    assert (default_set(store), default_set(store, sae=1), default_set(store, sae=2)) == (2, 1, 2)
    store.close()
