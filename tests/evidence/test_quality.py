"""What a pass says of the SAE itself, on counts that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from labeler.evidence.quality import DENSITY_LOG10_EDGES, density_histogram
from labeler.evidence.store import EvidenceFolder
from labeler.pipeline import gather_evidence
from labeler.sae.sae import SAE, Selection, Source
from labeler.subject.corpus import open_corpus
from labeler.subject.model import load_subject
from tests.gathering import CONFIG
from tests.planted import D_MODEL, N_FEATURES, Planted


def filled(n_firings: list[int], n_tokens: int) -> dict[float, int]:
    """Lower edge -> features, of the bins that are not empty."""
    counts = density_histogram(np.array(n_firings), n_tokens)
    assert len(counts) == len(DENSITY_LOG10_EDGES) - 1
    return {edge: n for edge, n in zip(DENSITY_LOG10_EDGES, counts, strict=False) if n}


def test_features_are_counted_by_the_logarithm_of_their_density() -> None:
    assert filled([1000, 300, 100, 99, 10, 1], 1000) == {-0.3333: 1, -0.6667: 1, -1.0: 1, -1.3333: 1, -2.0: 1, -3.0: 1}


def test_silent_features_have_no_density() -> None:
    assert filled([0, 0, 5], 500) == {-2.0: 1}
    assert filled([0], 500) == {}


@pytest.mark.parametrize("power", range(9))
def test_a_power_of_ten_is_in_the_bin_above_it(power: int) -> None:
    assert filled([1], 10**power) == {-float(power) if power else -0.3333: 1}


def test_densities_too_small_for_any_bin_are_in_the_first() -> None:
    assert filled([1], 10**12) == {-8.0: 1}


def test_the_manifest_counts_every_live_feature_once(planted_evidence) -> None:  # type: ignore[no-untyped-def]
    folder = EvidenceFolder(planted_evidence)
    quality = folder.manifest["quality"]
    assert quality["fvu"] == pytest.approx(1 - quality["explained_variance"])
    assert sum(quality["density_features"]) == N_FEATURES - 1, "one feature never fires"
    rates = [folder.statistics(f).density for f in range(N_FEATURES)]
    expected = np.histogram(np.log10([r for r in rates if r]), DENSITY_LOG10_EDGES)[0]
    assert quality["density_features"] == expected.tolist()


def test_the_quality_of_abstopk_counts_its_negative_activations(planted: Planted, tmp_path: Path) -> None:
    """With as many features as dimensions it gives back all it reads, though half of its activations are below 0."""
    eye, zeros = torch.eye(D_MODEL), torch.zeros(D_MODEL)
    sae = SAE(eye, zeros, eye, zeros, Selection("abstopk", k=D_MODEL), "abstopk", Source(Path("test"), "saelens", "0"))
    subject, corpus = load_subject(str(planted.subject)), open_corpus(str(planted.corpus))
    out = gather_evidence(subject, sae, corpus, CONFIG, tmp_path / "evidence", hookpoint="gpt_neox.layers.0.mlp")
    manifest = EvidenceFolder(out).manifest
    assert manifest["quality"]["fvu"] < 1e-6
    assert manifest["self_check"]["explained_variance"] > 0.999
    assert 0 < manifest["quality"]["l0"] < D_MODEL, "a feature is said to fire where it is above 0"
