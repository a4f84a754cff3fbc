"""Each format that SAEs are published in, once through the whole pipeline: gather, label, export.

The same planted SAE is written in all of them (tests/sae_formats.py) and all are gathered in one forward pass, so that
the right answer is known for each: feature 0 fires on `Q`, feature 2 on `a`, `e` and `i`, and feature 5 never.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from labeler.evidence.gather_all import gather_for_all
from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import choose_target, neurons
from labeler.export.export import export_label_set
from labeler.label_sets.missing import label_missing
from labeler.recipe import GatherConfig, Recipe
from labeler.records import State
from labeler.sae import load_sae
from labeler.store import Store, open_store
from labeler.subject.corpus import open_corpus
from labeler.subject.model import load_subject
from tests.planted import CHARACTERS, HOOKPOINT, N_FEATURES, Planted, meaning
from tests.sae_formats import FORMATS, MLP, Format, Weights

FEATURES = (0, 2, 5)
# With a BOS token, as Gemma Scope asks for.
CONFIG = GatherConfig(n_tokens=16_000, sequence_tokens=96, n_random=(128, 128), prepend_bos=True)
RECIPE = Recipe(n_null=4)


@dataclass(frozen=True)
class World:
    """Where the evidence of each format is, and where their labels go."""

    folder: Path
    store: Store

    def evidence(self, name: str) -> Path:
        return self.folder / "evidence" / name


@pytest.fixture(scope="module")
def world(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """All formats gathered in one pass."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("formats")
    world = World(folder, open_store(str(folder / "labeler.db")))
    subject = load_subject(str(_with_bos(planted, world.folder / "subject")), device="cpu")
    weights = Weights.of(planted.sae)
    targets = {}
    for form in FORMATS:
        sae = load_sae(str(form.write(world.folder / "saes" / form.name, weights)))
        targets[world.evidence(form.name)] = choose_target(subject, sae, form.hookpoint)
    targets[world.evidence("neurons")] = choose_target(subject, neurons(subject, HOOKPOINT), None)
    # Transcoders of a random MLP explain nothing of what it gives.
    gather_for_all(subject, targets, open_corpus(str(planted.corpus)), CONFIG, force=True)
    yield world
    world.store.close()
    torch.set_num_threads(n_threads)


def _with_bos(planted: Planted, folder: Path) -> Path:
    shutil.copytree(planted.subject, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<|endoftext|>"}))
    return folder


def labels_of(world: World, name: str, features: tuple[int, ...], out: Path) -> dict[int, dict[str, Any]]:
    """Label the features and read the exported label set back: feature -> row."""
    folder, store = EvidenceFolder(world.evidence(name)), world.store
    label_set = store.label_set_for(folder.manifest, str(folder.folder), RECIPE)
    asyncio.run(label_missing(folder, features, RECIPE, None, store, label_set))
    export_label_set(store, label_set.id, "jsonl", out)
    return {row["feature_index"]: row for row in map(json.loads, out.read_text().splitlines())}


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_a_format_comes_out_as_a_label_set(world: World, form: Format, tmp_path: Path) -> None:
    rows = labels_of(world, form.name, FEATURES, tmp_path / "labels.jsonl")
    assert sorted(rows) == list(FEATURES)
    assert "`Q`" in rows[0]["label"]
    assert all(f"`{c}`" in rows[2]["label"] for c in "aei")
    assert min(rows[0]["score"], rows[2]["score"]) > 0.95
    assert rows[5]["state"] == State.SILENT
    assert rows[5]["score"] is None


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_manifest_says_what_the_file_was(world: World, form: Format) -> None:
    manifest = EvidenceFolder(world.evidence(form.name)).manifest
    reads_mlp = form.format == "sparsify" and ("transcode" in form.name or "skip" in form.name)
    assert (manifest["sae"]["format"], manifest["sae"]["architecture"]) == (form.format, form.architecture)
    assert (manifest["hookpoint"], manifest["reads"]) == ((MLP, "input") if reads_mlp else (HOOKPOINT, "output"))
    assert manifest["sae"]["n_features"] == N_FEATURES
    assert len(manifest["sae"]["sha256"]) == 64
    explains_nothing = "transcode" in form.name or form.name == "sparsify-skip"
    assert manifest["self_check"]["forced"] == explains_nothing


@pytest.mark.parametrize(
    "form", [f for f in FORMATS if "transcode" not in f.name and f.name != "sparsify-skip"], ids=str
)
def test_features_fire_where_they_mean_to(world: World, form: Format) -> None:
    """Exactly: as often as their characters occur, on every feature, in every format but those behind a layer norm."""
    folder = EvidenceFolder(world.evidence(form.name))
    ids = torch.from_numpy(folder.corpus.tokens[:].astype("int64"))
    counts = torch.bincount(ids, minlength=len(CHARACTERS) + 1)
    for feature in range(N_FEATURES):
        expected = sum(int(counts[1 + CHARACTERS.index(c)]) for c in meaning(feature))
        assert folder.statistics(feature).n_firings == expected, f"feature {feature}"


def test_neurons_come_out_as_a_label_set(world: World, tmp_path: Path) -> None:
    """Dimension i of the embedding is the character with token id i."""
    q, never = 1 + CHARACTERS.index("Q"), 1 + CHARACTERS.index("!")
    rows = labels_of(world, "neurons", (q, never), tmp_path / "labels.jsonl")
    assert "`Q`" in rows[q]["label"]
    assert rows[q]["score"] > 0.95
    assert rows[never]["state"] == State.SILENT


def test_every_reader_has_a_format_here() -> None:
    """A format or an architecture that is added to a reader has to be sent through the pipeline too."""
    from labeler.sae.formats import dictionary_learning, saelens

    written = {f.architecture for f in FORMATS if f.format == "saelens"}
    # In matching pursuit features compete for a vector: what one fires on does not say what it means.
    assert written == set(saelens._KINDS) - {"matching_pursuit"}
    assert {f.architecture for f in FORMATS if f.format == "dictionary_learning"} == set(dictionary_learning._CLASSES)
    assert {f.format for f in FORMATS} == {"saelens", "sparsify", "dictionary_learning", "gemma_scope", "openai"}
