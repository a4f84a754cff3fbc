"""Names by which people recognize a subject and an SAE: no paths, and no part of what a result hangs on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labeler.errors import InputError
from labeler.export.card import build_card, card_markdown
from labeler.export.export import export_label_set
from labeler.imports.labels import import_labels
from labeler.names import corpus_name, names_of, read_name, sae_name, subject_name, with_names
from labeler.recipe import GatherConfig, Recipe
from labeler.store import Store, open_store
from labeler.store.jobs.states import GatherRequest
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.compare import compare_sets
from tests.planted import Planted
from tests.results import labeled, manifest

PLACE = "/home/ann/very/private"
SUBJECT, SAE, CORPUS = f"{PLACE}/models/smollm2", f"{PLACE}/sae19/sae_weights.safetensors", f"{PLACE}/texts"


def placed(**changes: object) -> dict[str, object]:
    """A manifest as earlier versions wrote it: with paths of a machine, and without names."""
    plain = manifest()
    return manifest(
        subject={**plain["subject"], "id": SUBJECT},
        sae={**plain["sae"], "path": SAE},
        corpus={**plain["corpus"], "spec": CORPUS},
        **changes,
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("gpt2", "gpt2"),
        ("labeler-demo/subject", "labeler-demo/subject"),
        (SUBJECT, "smollm2"),
        ("./smollm2/", "smollm2"),
        ("models/HuggingFaceTB/smollm2", "smollm2"),
        ("~/smollm2", "smollm2"),
        ("/data/run7/model", "run7/model"),
        ("/data/run7/checkpoint-500", "run7/checkpoint-500"),
        ("C:\\models\\smol", "smol"),
        ("/c/hub/models--EleutherAI--pythia-70m/snapshots/0123abcd", "EleutherAI/pythia-70m"),
        ("/", "unnamed"),
    ],
)
def test_a_subject_is_called_by_its_hub_id_or_last_folders(path: str, name: str) -> None:
    assert subject_name(path) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (SAE, "sae19"),
        ("hf:EleutherAI/sae-pythia/layers.3", "EleutherAI/sae-pythia/layers.3"),
        ("sae-lens:gpt2-small-res-jb/blocks.8.hook_resid_pre", "gpt2-small-res-jb/blocks.8.hook_resid_pre"),
        ("neurons", "neurons"),
        ("/x/sae-pythia/layers.3/sae.safetensors", "sae-pythia/layers.3"),
        ("/x/big/5.pt", "big/5.pt"),
        ("/g/res/layer_20/width_16k/average_l0_71/params.npz", "layer_20/width_16k/average_l0_71"),
        ("/c/models--google--gemma-scope/snapshots/01ab/layer_20/params.npz", "google/gemma-scope/layer_20"),
    ],
)
def test_an_sae_is_called_by_its_hub_id_or_last_folders(path: str, name: str) -> None:
    assert sae_name(path) == name
    assert "safetensors" not in sae_name(path)


def test_a_corpus_keeps_its_own_name() -> None:
    assert [corpus_name(spec) for spec in ("python-stdlib", "hf:wikitext", CORPUS)] == [
        "python-stdlib",
        "hf:wikitext",
        "texts",
    ]


def test_a_name_is_one_line_and_no_path() -> None:
    assert read_name("smollm2 / sae19") == {"subject": "smollm2", "sae": "sae19"}
    assert read_name("sae19") == {"sae": "sae19"}
    assert read_name(None) is None
    for wrong in ("", " / ", "a / b / c", "a\nb", "x" * 201, "/data/sae", "a / ~/sae"):
        with pytest.raises(InputError, match="name "):
            read_name(wrong)


def test_old_databases_show_names_and_keep_what_results_hang_on(store: Store, tmp_path: Path) -> None:
    store.label_set_for(placed(), f"{PLACE}/evidence", Recipe())
    store.save(1, [labeled(0)])
    info = store.label_set(1)
    assert (info.subject, info.sae, info.name) == ("smollm2", "sae19", "smollm2 / sae19")
    sae, (listed,) = catalogue.find_sae(store, "1"), catalogue.list_sets(store, 1, 0, 9)
    assert (sae.name, listed.name, sae.sha256) == ("smollm2 / sae19", "smollm2 / sae19", "a" * 64)
    kept, _ = store.evidence(1)
    assert kept["subject"]["id"] == SUBJECT, "with which texts are read again"
    said = [card_markdown(build_card(store, 1)), json.dumps(build_card(store, 1))]
    for kind in ("jsonl", "csv", "parquet"):
        export_label_set(store, 1, kind, tmp_path / f"x.{kind}", top_contexts=0)
        said.append((tmp_path / f"x.{kind}").read_bytes().decode("latin-1"))
    for text in said:
        assert PLACE not in text
        assert "sae_weights" not in text
        assert "smollm2" in text


def test_names_that_were_given_stand_in_their_place(store: Store) -> None:
    first = store.label_set_for(placed(), "/evidence", Recipe())
    named = placed(names={"subject": "Smol", "sae": "nineteen"})
    assert store.label_set_for(named, "/evidence", Recipe()).id == first.id, "the same evidence, hash and all"
    assert store.label_set(1).name == "Smol / nineteen"
    assert store.label_set_for(placed(), "/evidence", Recipe()).name == "Smol / nineteen", "until another one is given"
    assert len(catalogue.list_saes(store, 0, 9)) == 1
    assert names_of(named) == {"subject": "Smol", "sae": "nineteen"}
    assert with_names(named)["subject"]["id"] == "Smol"
    assert named["subject"]["id"] == SUBJECT  # type: ignore[index]


def test_what_was_exported_by_name_comes_back_to_its_sae(store: Store, tmp_path: Path) -> None:
    store.label_set_for(placed(), "/evidence", Recipe())
    store.save(1, [labeled(0), labeled(1)])
    export_label_set(store, 1, "parquet", tmp_path / "x.parquet")
    done = import_labels(store, tmp_path / "x.parquet")
    assert len(catalogue.list_saes(store, 0, 9)) == 1
    assert compare_sets(store, 1, done.label_set).n_same_text == 2
    # The other way round: the labels came first, and then the SAE was gathered here.
    other = open_store(str(tmp_path / "other.db"))
    import_labels(other, tmp_path / "x.parquet")
    other.label_set_for(placed(), "/evidence", Recipe())
    assert len(catalogue.list_saes(other, 0, 9)) == 1
    # Other weights are another SAE, whatever they are called.
    changed = {**placed()["sae"], "sha256": "b" * 64}  # type: ignore[dict-item]
    other.label_set_for(placed(hash="f" * 16) | {"sae": changed}, "/other", Recipe())
    assert len(catalogue.list_saes(other, 0, 9)) == 2
    other.close()


def test_gather_takes_a_name_and_another_one_later(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = [
        "gather",
        "--subject",
        planted.subject,
        "--sae",
        planted.sae,
        "--corpus",
        planted.corpus,
        "--out",
        tmp_path / "e",
        "--sequence-tokens",
        "96",
        "--json",
    ]
    first = json.loads(run(*words, "--name", "Planted / letters").out)
    assert first["names"] == {"subject": "Planted", "sae": "letters"}
    second = json.loads(run(*words, "--name", "Q and others").out)
    assert second["names"] == {"sae": "Q and others"}
    assert second["hash"] == first["hash"]
    assert json.loads(run(*words).out)["names"] == second["names"], "a run without a name changes none"
    assert run(*words, "--name", "a", "--name", "b").code == 2
    wrong = run(*words, "--name", "/data/sae")
    assert wrong.code == 2
    assert "no path" in wrong.err


def test_a_job_carries_the_name_and_old_requests_stay_what_they_were() -> None:
    plain = GatherRequest("subject", "sae", "corpus", "/out", config=GatherConfig())
    assert "name" not in plain.to_dict(), "an idempotency key knows a request by this"
    named = replace(plain, name="a / b")
    assert GatherRequest.from_dict(named.to_dict()) == named
    assert GatherRequest.from_dict(plain.to_dict()) == plain
    with pytest.raises(InputError, match="expected `SUBJECT / SAE`"):
        replace(plain, name="x\ny")
