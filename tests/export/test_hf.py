"""The folder that goes to the Hugging Face hub, opened by the library that opens it there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from labeler.errors import InputError, StorageError
from labeler.evidence.store import EvidenceFolder
from labeler.export import hf
from labeler.export.card import build_card
from labeler.export.columns import field
from labeler.export.hf import export_dataset
from labeler.formats import export_as
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from tests.results import EXPORTED, failed, labeled, manifest, silent

HOSTILE = 'says "hi",\n---\nünïcode </script> \u202e'


@pytest.fixture
def made(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "made.db"))
    store.label_set_for(manifest(), "/evidence", Recipe.from_names("openai:m"))
    store.save(1, [labeled(0, text=HOSTILE), labeled(1, None), silent(2), failed(3), labeled(40, 0.0)])
    return store


def load(folder: Path, cache: Path) -> Any:
    import datasets  # a second of imports, which only these tests need

    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def test_load_dataset_opens_it_with_types_and_nulls(made: Store, tmp_path: Path) -> None:
    assert export_dataset(made, 1, tmp_path / "set") == 5
    opened = load(tmp_path / "set", tmp_path / "cache")
    assert list(opened) == ["train"]
    rows = opened["train"]
    assert rows["feature_index"][:] == [0, 1, 2, 3, 40]
    assert rows["score"][:] == [0.5, None, None, None, 0.0]
    assert rows[0]["label"] == HOSTILE
    assert rows[3]["cost_usd"] is None
    kinds = {name: feature.dtype for name, feature in rows.features.items()}
    types = {column.name: str(field(column).type) for column in EXPORTED}
    assert kinds == {name: {"double": "float64"}.get(kind, kind) for name, kind in types.items()}


def test_contexts_are_lists_of_structs(planted_evidence: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "contexts.db"))
    store.label_set_for(EvidenceFolder(planted_evidence).manifest, str(planted_evidence), Recipe())
    store.save(1, [labeled(0), silent(5)])
    export_dataset(store, 1, tmp_path / "set", top_contexts=2)
    rows = load(tmp_path / "set", tmp_path / "cache")["train"]
    assert [len(contexts) for contexts in rows["top_contexts"]] == [2, 0]
    assert max(rows[0]["top_contexts"][0]["activations"]) == 5.0
    header = yaml.safe_load((tmp_path / "set" / "README.md").read_text("utf-8").split("---\n")[1])
    assert header["dataset_info"]["features"] == rows.features._to_yaml_list(), "what the header says is what is read"


def test_the_readme_is_the_card_behind_its_header(made: Store, tmp_path: Path) -> None:
    export_dataset(made, 1, tmp_path / "set")
    _, header, body = (tmp_path / "set" / "README.md").read_text("utf-8").split("---\n", 2)
    facts = yaml.safe_load(header)
    assert "license" not in facts, "that is for whoever publishes it"
    assert facts["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}
    ]
    assert facts["size_categories"] == ["n<1K"]
    assert facts["pretty_name"] == "Feature labels of tiny, layers.1"
    for fact in (
        "Observational",
        "a" * 64,
        "No score for 1: the simulation is constant",
        "add yours before you publish",
    ):
        assert fact in header + body, fact
    assert json.loads((tmp_path / "set" / "card.json").read_text()) == build_card(made, 1)


def test_shards_hold_every_row_once(made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, n_shards in ((2, 3), (5, 1), (1, 5)):
        monkeypatch.setattr(hf, "_ROWS_A_SHARD", size)
        folder = tmp_path / f"by-{size}"
        assert export_dataset(made, 1, folder) == 5
        assert len(list((folder / "data").iterdir())) == n_shards
        assert load(folder, tmp_path / "cache")["train"]["feature_index"][:] == [0, 1, 2, 3, 40]


def test_a_label_set_without_results_is_an_empty_dataset(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "empty.db"))
    store.label_set_for(manifest(), "/evidence", Recipe())
    assert export_dataset(store, 1, tmp_path / "set") == 0
    assert len(list((tmp_path / "set" / "data").iterdir())) == 1


def test_nothing_is_overwritten(made: Store, tmp_path: Path, run) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="name a new or empty folder"):
        export_dataset(made, 1, tmp_path / "mine")
    done = run("export", "--format", "hf", "--out", tmp_path / "new", "--db", tmp_path / "made.db")
    assert done.code == 0, done.err
    assert (tmp_path / "new" / "README.md").exists()
    again = run("export", "--format", "hf", "--out", tmp_path / "new", "--db", tmp_path / "made.db")
    assert again.code == 2
    assert run("export", "--format", "xlsx", "--out", "x", "--db", tmp_path / "made.db").err.count("saebench") == 1


def test_an_error_leaves_nothing_behind(made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object):  # type: ignore[no-untyped-def]
        yield b"half"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("labeler.export.hf.encode_rows", broken)
    with pytest.raises(StorageError, match="No space left"):
        export_dataset(made, 1, tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("set")] == []


def test_each_format_is_named_once_where_one_is_not_known(made: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one of jsonl, csv, parquet, hf, saebench, neuronpedia$"):
        export_as(made, 1, "xlsx", tmp_path / "x")
    with pytest.raises(InputError, match="go with --format neuronpedia, and not with csv"):
        export_as(made, 1, "csv", tmp_path / "x", model="gpt2-small")
