"""A world with sinks: the first token of each sequence has a state of enormous norm, as in real language models."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from labeler.errors import FormatError
from labeler.evidence.gather_all import gather_for_all
from labeler.evidence.manifest import read_manifest, write_manifest
from labeler.evidence.merge import merge_shards
from labeler.evidence.state import Quality, RandomWindows, Statistics, load_arrays, save_arrays
from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import choose_target
from labeler.pipeline import label_feature
from labeler.recipe import Recipe
from labeler.records import State
from labeler.sae import load_sae
from labeler.sae.sae import SAE
from labeler.steps.read import read_or_failed
from labeler.subject.corpus import open_corpus
from labeler.subject.model import Subject, load_subject
from labeler.terminal import feature_panel, quality_table
from tests.evidence.test_gather import same_bytes
from tests.gathering import CONFIG
from tests.planted import CHARACTERS, D_MODEL, Planted

SINK, NORM = 5, 300.0  # the feature of "!", which never occurs, and reads the last dimension, which no character has
Gather = Callable[..., Path]


def with_sink(sae: SAE) -> SAE:
    w_enc, w_dec, b_dec = sae.w_enc.clone(), sae.w_dec.clone(), sae.b_dec.clone()
    w_enc[SINK], w_dec[SINK] = 0.0, 0.0
    w_enc[SINK, D_MODEL - 1] = w_dec[SINK, D_MODEL - 1] = 1.0
    # Ordinary tokens are explained badly, so that the two figures tell themselves apart.
    return replace(sae, w_enc=w_enc, w_dec=w_dec * 0.9, b_dec=b_dec)


@pytest.fixture(scope="module")
def gather(planted: Planted) -> Gather:
    subject, corpus = load_subject(str(planted.subject)), open_corpus(str(planted.corpus))
    target = choose_target(subject, with_sink(load_sae(str(planted.sae))), None)
    hidden = Subject.hidden

    def sinking(self: Subject, ids: torch.Tensor, places: Any) -> Any:
        found = {place: states.clone() for place, states in hidden(self, ids, places).items()}
        for states in found.values():
            states[:, 0, D_MODEL - 1] = NORM
        return found

    def run(out: Path, shard: tuple[int, int] = (1, 1)) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Subject, "hidden", sinking)
            gather_for_all(subject, {out: target}, corpus, CONFIG, shard=shard)
        return out

    return run


@pytest.fixture(scope="module")
def folder(gather: Gather, tmp_path_factory: pytest.TempPathFactory) -> EvidenceFolder:
    return EvidenceFolder(gather(tmp_path_factory.mktemp("massive") / "evidence"))


def test_figures_over_ordinary_tokens_are_not_flattered(folder: EvidenceFolder) -> None:
    quality, corpus = folder.manifest["quality"], folder.manifest["corpus"]
    assert quality["massive_share"] == pytest.approx(corpus["n_sequences"] / corpus["n_tokens"])
    assert quality["explained_variance"] > 0.98
    assert 0.2 < quality["explained_variance_ordinary"] < 0.95
    assert quality["fvu_ordinary"] == pytest.approx(1 - quality["explained_variance_ordinary"])
    n_ordinary = corpus["n_tokens"] - corpus["n_sequences"]
    on_first = sum(folder.statistics(f).n_firings_massive or 0 for f in range(folder.n_features))
    firings = sum(folder.statistics(f).n_firings or 0 for f in range(folder.n_features))
    assert quality["l0_ordinary"] == pytest.approx((firings - on_first) / n_ordinary)
    assert folder.manifest["self_check"]["massive_norm"] == 10.0


def test_without_massive_tokens_both_figures_are_one(planted_evidence: Path) -> None:
    quality = read_manifest(planted_evidence)["quality"]
    assert quality["massive_share"] == 0
    for name in ("l0", "explained_variance", "fvu"):
        assert quality[f"{name}_ordinary"] == quality[name]


def test_counts_say_which_feature_lives_on_first_positions(folder: EvidenceFolder) -> None:
    sink, letter = folder.statistics(SINK), folder.statistics(2)
    n_sequences = folder.manifest["corpus"]["n_sequences"]
    assert (sink.n_firings, sink.n_firings_first, sink.n_firings_massive) == (n_sequences,) * 3
    assert (sink.mark, letter.mark) == ("first position", None)
    first = np.asarray(folder.corpus.tokens)[np.asarray(folder.corpus.sequence_starts)[:-1]]
    assert letter.n_firings_first == int(np.isin(first, [1 + CHARACTERS.index(c) for c in "aei"]).sum()) > 0


def test_such_a_feature_gets_its_look_up_label_and_no_paid_one(folder: EvidenceFolder) -> None:
    recipe = Recipe.from_names("openai:some-model", scorers=["detection"])
    evidence = read_or_failed(folder, SINK, recipe)
    result = asyncio.run(label_feature(evidence, recipe, None, []))  # without an LLM: to ask it would fail
    assert result.state is State.LABELED
    assert result.label is not None
    assert result.label.explainer == "lookup"
    assert result.origin is not None
    assert result.origin.why.startswith("first position: at least 90% of its firings")
    assert not result.origin.asked_llm
    assert result.usage.requests == 0
    assert "first position" in _shown(feature_panel(result))


def test_shards_find_the_same_massive_tokens(gather: Gather, folder: EvidenceFolder, tmp_path: Path) -> None:
    for i in (3, 1, 2):
        gather(tmp_path / "cut", (i, 3))
    assert same_bytes(folder.folder, merge_shards(tmp_path / "cut")) == []


def test_the_table_shows_both_figures(folder: EvidenceFolder) -> None:
    text = _shown(quality_table(folder.manifest["quality"]))
    assert "over all tokens)" in text
    assert "massive tokens, norm over 10 times the median" in text


def test_evidence_of_earlier_versions_stays_readable(folder: EvidenceFolder, tmp_path: Path) -> None:
    old = shutil.copytree(folder.folder, tmp_path / "old")
    for name in ("first", "massive"):
        (old / f"statistics.n_firings_{name}.npy").unlink()
    manifest = read_manifest(old)
    quality = {k: v for k, v in manifest["quality"].items() if "ordinary" not in k and "massive" not in k}
    kept = {k: v for k, v in manifest.items() if k not in ("self_check", "files")}
    write_manifest(old, {**kept, "quality": quality})
    found = EvidenceFolder(old).statistics(SINK)
    assert (found.n_firings_first, found.mark) == (None, None)
    assert "massive" not in _shown(quality_table(quality))


def _shown(drawn: Any) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(drawn)
    return console.export_text()


def test_a_shard_that_an_earlier_version_began_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state-1.npz"
    save_arrays(path, Statistics.empty(3), Quality.empty(2), RandomWindows(np.zeros(0)))
    with np.load(path) as arrays:
        older = {name: arrays[name] for name in arrays.files if not name.startswith("statistics_n_firings_")}
    np.savez(path, **older)
    with pytest.raises(FormatError, match="an earlier version of labeler began this shard"):
        load_arrays(path, RandomWindows(np.zeros(0)))
