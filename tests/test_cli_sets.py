"""`labeler sets` and the other commands that name label sets, as they are printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from labeler.recipe import Recipe
from labeler.store import open_store
from tests.results import failed, labeled, manifest

PLACE = "/home/ann/a/very/long/path/that/nobody/needs/to/see"


@pytest.fixture
def database(migrated_file: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copy(migrated_file, tmp_path / "made.db"))
    store = open_store(str(path), migrate=False)
    plain = manifest()
    long = manifest(
        subject={**plain["subject"], "id": f"{PLACE}/smollm2"},
        hookpoint="model.layers.12.post_attention_layernorm",
        sae={**plain["sae"], "path": f"{PLACE}/sae19/sae_weights.safetensors"},
        corpus={**plain["corpus"], "spec": f"{PLACE}/texts"},
    )
    for recipe in (
        Recipe(),
        Recipe.from_names("openai:an-explainer-with-a-very-long-name-2026-11", "openai:another-model"),
    ):
        store.label_set_for(long, f"{PLACE}/evidence-of-layer-12", recipe)
    store.save(1, [labeled(0), failed(1)])
    store.close()
    return path


@pytest.mark.parametrize("columns", [None, "80"])
def test_sets_fit_80_columns_and_say_of_what_they_are(  # type: ignore[no-untyped-def]
    run, database: Path, columns: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    done = run("sets", "--db", database)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert [line for line in done.out.splitlines() if line != line.rstrip()] == []
    text = " ".join(done.out.split())
    for said in (
        "1 smollm2 / sae19",
        "1 labels of 50 features; 1 failed; median score 0.50",
        "hookpoint model.layers.12.post_attention_layernorm",
        "evidence 1, evidence-of-layer-12",
        "corpus texts",
        "(max-activation-2)",
        "by openai:an-explainer-with-a-very-long-name-2026-11",
        "label set 1 is used",
    ):
        assert said in text, said
    assert PLACE not in done.out
    assert "sae_weights" not in done.out


def test_sets_as_json_names_them_and_the_one_that_speaks(run, database: Path) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(run("sets", "--db", database, "--json").out)
    assert [(s["name"], s["default"]) for s in found] == [("smollm2 / sae19", True), ("smollm2 / sae19", False)]
