"""A subject whose features do what the test says: the decoder direction of each is the unembedding row of one character.

The planted subject with its unembedding made from its embedding (a unit vector for each character) and its one layer
silenced, so that adding a feature's direction at the embedding makes its character likelier and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import Target, choose_target
from labeler.sae import load_sae
from labeler.subject.model import Subject, load_subject
from tests.planted import CHARACTERS, Planted

SHARPNESS = 2.0  # of the clean next-token distribution


def transparent_subject(planted: Planted) -> Subject:
    subject = load_subject(str(planted.subject))
    model = subject.model
    with torch.no_grad():
        for layer in model.gpt_neox.layers:
            for last in (layer.attention.dense, layer.mlp.dense_4h_to_h):
                last.weight.zero_()
                last.bias.zero_()
        model.get_output_embeddings().weight.copy_(SHARPNESS * model.gpt_neox.embed_in.weight)
    return subject


def token(character: str) -> int:
    return 1 + CHARACTERS.index(character)


@pytest.fixture(scope="session")
def subject(planted: Planted) -> Subject:
    return transparent_subject(planted)


@pytest.fixture(scope="session")
def target(subject: Subject, planted: Planted) -> Target:
    return choose_target(subject, load_sae(str(planted.sae)), None)


@pytest.fixture
def folder(planted_evidence: Path, tmp_path: Path) -> EvidenceFolder:
    """The planted evidence under another name, so that what is written beside it is written nowhere else."""
    copy = tmp_path / "evidence"
    copy.mkdir()
    for path in planted_evidence.iterdir():
        (copy / path.name).symlink_to(path)
    return EvidenceFolder(copy)


def reading_input(target: Target) -> Target:
    assert target.aim is not None
    return replace(target, aim=replace(target.aim, path="gpt_neox.layers.0", reads="input"))
