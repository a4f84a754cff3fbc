from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from labeler.evidence.directions import read_neighbours, read_output
from labeler.evidence.store import EvidenceFolder
from labeler.sae import load_sae
from labeler.sae.neighbours import nearest_neighbours
from labeler.subject.model import load_subject
from tests.gathering import without_directions
from tests.planted import N_FEATURES, Planted


def test_neighbours_are_those_of_the_whole_matrix(planted: Planted) -> None:
    sae = load_sae(str(planted.sae))
    directions = torch.nn.functional.normalize(
        torch.randn(N_FEATURES, 80, generator=torch.Generator().manual_seed(0)), dim=1
    )
    object.__setattr__(sae, "w_dec", directions * 3.0)
    cosines = directions @ directions.T - 3.0 * torch.eye(N_FEATURES)
    expected = cosines.topk(5, dim=1)
    for block in (3, 7, 4096):
        features, found = nearest_neighbours(sae, k=5, block=block)
        np.testing.assert_array_equal(features, expected.indices.numpy())
        np.testing.assert_allclose(found, expected.values.numpy(), atol=1e-6)


def test_promoted_tokens_are_those_of_the_logit_lens(planted: Planted, planted_evidence: Path) -> None:
    subject, sae = load_subject(str(planted.subject)), load_sae(str(planted.sae))
    gain = subject.model.gpt_neox.final_layer_norm.weight.detach()
    logits = (sae.decoder_directions() * gain) @ subject.model.lm_head.weight.detach().T
    folder = EvidenceFolder(planted_evidence)
    for feature in (0, 2, 9):
        output = read_output(folder, feature)
        assert output is not None
        assert [t for t, _ in output.promoted] == logits[feature].topk(10).indices.tolist()
        assert [t for t, _ in output.suppressed] == logits[feature].topk(10, largest=False).indices.tolist()
        assert output.promoted[0][1] == pytest.approx(float(logits[feature].max()), rel=1e-4)
        assert sum(output.histogram) == logits.shape[1]


def test_evidence_without_an_output_side_says_so(planted_evidence: Path, tmp_path: Path) -> None:
    folder = EvidenceFolder(without_directions(planted_evidence, tmp_path / "evidence"))
    assert read_output(folder, 0) is None
    assert read_neighbours(folder, 0) == ()


def test_a_feature_is_not_its_own_neighbour(planted_evidence: Path) -> None:
    folder = EvidenceFolder(planted_evidence)
    for feature in range(N_FEATURES):
        neighbours = read_neighbours(folder, feature)
        assert len(neighbours) == 10
        assert feature not in {f for f, _ in neighbours}
        cosines = [c for _, c in neighbours]
        assert cosines == sorted(cosines, reverse=True)
