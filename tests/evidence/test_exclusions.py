"""Tokens and positions that SAELens left out of training: no feature is gathered there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.evidence.activations import read_text
from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import choose_target
from labeler.sae import load_sae
from labeler.subject.model import load_subject
from tests.gathering import CONFIG, gather
from tests.planted import CHARACTERS, HOOKPOINT, Planted, meaning


def planted_with(planted: Planted, folder: Path, **metadata: Any) -> Planted:
    sae = shutil.copytree(planted.sae, folder / "sae")
    cfg = json.loads((sae / "cfg.json").read_text())
    cfg["metadata"] |= metadata
    (sae / "cfg.json").write_text(json.dumps(cfg))
    return Planted(planted.subject, sae, planted.corpus)


def firings(folder: EvidenceFolder, feature: int, read: np.ndarray) -> int:
    ids = [1 + CHARACTERS.index(c) for c in meaning(feature)]
    return int((np.isin(np.asarray(folder.corpus.tokens), ids) & read).sum())


def positions_of(folder: EvidenceFolder) -> np.ndarray:
    starts = np.asarray(folder.corpus.sequence_starts)
    places = np.arange(folder.corpus.n_tokens)
    return places - starts[folder.corpus.sequence_of(places)]


@pytest.mark.parametrize("stated", [[5, 40], [None, -6], [0, None, 2]])
def test_only_the_positions_of_the_slice_are_read(planted: Planted, tmp_path: Path, stated: list[int | None]) -> None:
    folder = EvidenceFolder(gather(planted_with(planted, tmp_path, seqpos_slice=stated), tmp_path / "evidence"))
    read = np.isin(positions_of(folder), range(CONFIG.sequence_tokens)[slice(*stated)])
    for feature in (0, 2, 3):
        assert folder.statistics(feature).n_firings == firings(folder, feature, read) > 0
    quality = folder.manifest["quality"]
    assert quality["l0"] * int(read.sum()) == pytest.approx(
        sum(folder.statistics(f).n_firings or 0 for f in range(folder.n_features))
    )
    assert folder.manifest["sae"]["seqpos_slice"] == stated


def test_tokens_that_are_left_out_fire_nothing(planted: Planted, tmp_path: Path) -> None:
    a, q = (1 + CHARACTERS.index(c) for c in "aQ")
    with_ids = planted_with(planted, tmp_path, exclude_special_tokens=[a, q])
    folder = EvidenceFolder(gather(with_ids, tmp_path / "evidence"))
    read = ~np.isin(np.asarray(folder.corpus.tokens), [a, q])
    assert folder.statistics(0).n_firings == 0
    assert folder.statistics(2).n_firings == firings(folder, 2, read) > 0
    subject = load_subject(str(planted.subject))
    found = read_text(subject, choose_target(subject, load_sae(str(with_ids.sae)), None), CONFIG, "aeQaie")
    assert found.token[found.feature == 2].tolist() == [1, 4, 5]


def test_true_means_the_special_tokens_of_the_tokenizer(planted: Planted, tmp_path: Path) -> None:
    subject = load_subject(str(planted.subject))
    target = choose_target(
        subject, load_sae(str(planted_with(planted, tmp_path, exclude_special_tokens=True).sae)), None
    )
    text = "a<|endoftext|>e"
    ids = subject.tokenizer(text)["input_ids"]
    assert subject.tokenizer.eos_token_id in ids
    found = read_text(subject, target, CONFIG, text)
    assert found.token_ids.tolist() == ids
    assert found.token[found.feature == 2].tolist() == [0, len(ids) - 1]
    assert str(target.hookpoint) == HOOKPOINT


def test_null_and_false_leave_nothing_out(planted: Planted, tmp_path: Path) -> None:
    sae = load_sae(str(planted_with(planted, tmp_path, exclude_special_tokens=False, seqpos_slice=[None]).sae))
    assert (sae.excluded_tokens, sae.positions) == (False, None)
