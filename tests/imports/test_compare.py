"""Two label sets side by side, by their ids and as files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import MismatchError, NotFoundError
from labeler.export.export import export_label_set
from labeler.imports.compare import compare
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from tests.results import failed, labeled, manifest, silent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two label sets of one SAE, and one of another."""
    store = open_store(str(tmp_path_factory.mktemp("compare") / "made.db"))
    for recipe, evidence in (
        (Recipe.from_names("openai:m"), manifest()),
        (Recipe.from_names("openai:n"), manifest()),
        (Recipe(), manifest(sae=manifest()["sae"] | {"sha256": "b" * 64}, hash="b" * 16)),
    ):
        store.label_set_for(evidence, "/evidence", recipe)
    store.save(1, [labeled(i, 0.5, f"label {i}") for i in range(6)] + [labeled(6, None), silent(7), labeled(8)])
    scores = (0.5, 0.6, 0.4, 0.9, 0.1, 0.5)
    store.save(2, [labeled(i, score, f"label {i % 5}") for i, score in enumerate(scores)])
    store.save(2, [labeled(6, 0.5), failed(7), labeled(9)])
    store.save(3, [labeled(0)])
    return store


def both_as(kind: str, made: Store, folder: Path) -> tuple[str, str]:
    for label_set in (1, 2):
        export_label_set(made, label_set, kind, folder / f"{label_set}.{kind}")
    return str(folder / f"1.{kind}"), str(folder / f"2.{kind}")


@pytest.mark.parametrize("kinds", [("id", "id"), ("jsonl", "jsonl"), ("id", "parquet"), ("csv", "id")])
def test_agreement_and_differences(made: Store, tmp_path: Path, kinds: tuple[str, str]) -> None:
    names = [str(i + 1) if kind == "id" else both_as(kind, made, tmp_path)[i] for i, kind in enumerate(kinds)]
    found = compare(names[0], names[1], made, limit=2)
    assert (found.n_both, found.n_only_in_a, found.n_only_in_b) == (8, 1, 1)
    assert found.states == {"labeled": {"labeled": 7}, "silent": {"failed": 1}}
    assert found.n_same_text == 6
    assert (found.n_scored, found.n_scored_in_one) == (6, 1)
    assert found.mean_difference == pytest.approx(0.0)
    # Student's t over the 6 differences 0, .1, -.1, .4, -.4, 0: s = .2608, t(.975; 5) = 2.571.
    assert found.mean_interval == pytest.approx((-0.27365, 0.27365), abs=1e-4)
    assert (found.n_higher_in_a, found.n_higher_in_b) == (2, 2)
    assert (found.n_apart_in_a, found.n_apart_in_b) == (1, 1)
    first, second = found.largest
    assert (first.feature_index, first.label_a, first.label_b, first.score_b) == (3, "label 3", "label 3", 0.9)
    assert first.interval_b == pytest.approx((0.8, 1.0))
    assert second.feature_index == 4


def test_other_saes_have_nothing_in_common(made: Store, tmp_path: Path) -> None:
    export_label_set(made, 3, "jsonl", tmp_path / "3.jsonl")
    for other in ("3", str(tmp_path / "3.jsonl")):
        with pytest.raises(MismatchError, match="different SAEs"):
            compare("1", other, made)
    with pytest.raises(NotFoundError, match="neither the id of a label set nor a file"):
        compare("1", "gone.jsonl", made)


def test_the_command_says_it_and_its_exit_code(run, made: Store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    a, b = both_as("jsonl", made, tmp_path)
    done = run("diff", a, b, "--exit-code")
    assert done.code == 6, done.err
    assert "8 features have a result in both, 1 only in A, 1 only in B" in done.out
    assert "silent in A: 1 failed in B" in done.out
    assert "exactly the same label: 6 of 7" in done.out
    assert "B − A is +0.000 on average (95% interval -0.274 to +0.274)" in done.out.replace("-0.000", "+0.000")
    assert "label 3" in done.out
    assert run("diff", a, b).code == 0, "to differ is no error, unless it is asked for"
    assert run("diff", a, a, "--exit-code").code == 0
    as_json = json.loads(run("diff", a, b, "--json").out)
    assert (as_json["same"], as_json["a"], as_json["n_same_text"]) == (False, a, 6)
    assert run("diff", a, "gone.jsonl").code == 2


@pytest.mark.parametrize(
    "change", [{"text": "other"}, {"score": 0.4}, {"score": None}, {"feature_index": 2}], ids=lambda c: next(iter(c))
)
def test_any_difference_counts(run, tmp_path: Path, change: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    files = []
    for number, changes in enumerate(({}, change)):
        store = open_store(str(tmp_path / f"{number}.db"))
        store.label_set_for(manifest(), "/evidence", replace(Recipe(), seed=number))
        store.save(1, [labeled(**{"feature_index": 1, "score": 0.5, "text": "same", **changes})])
        files.append(tmp_path / f"{number}.jsonl")
        export_label_set(store, 1, "jsonl", files[-1])
    assert run("diff", *files, "--exit-code").code == 6
    assert run("diff", files[0], files[0], "--exit-code").code == 0
