"""The demo's weights belong together and are good enough to show; the script that made them runs from end to end."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from labeler.bundled import HOOKPOINT, SAE_PATH, SUBJECT_PATH
from labeler.demo.figures import measure
from labeler.demo.train import DemoConfig, main, split_documents
from labeler.errors import InputError
from labeler.sae import load_sae
from labeler.subject.corpus import Document
from labeler.subject.model import Subject, load_subject
from labeler.subject.reading import token_batches
from tests.demo.code import CODE

TINY = [
    "--documents=12",
    "--held-out-share=0.25",
    "--vocabulary=300",
    "--d-model=32",
    "--layers=1",
    "--heads=2",
    "--context=32",
    "--steps=60",
    "--batch=4",
    "--hook-layer=0",
    "--features=64",
    "--k=4",
    "--sae-tokens=4000",
    "--sae-batch=256",
    "--sae-epochs=2",
    "--sae-learning-rate=0.01",
    "--held-out-tokens=2000",
]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(str(SUBJECT_PATH), device="cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    main([str(out), *TINY])
    return out


def test_the_assets_are_small_and_say_where_they_come_from() -> None:
    assets = [p for folder in (SUBJECT_PATH, SAE_PATH) for p in folder.iterdir()]
    assert sum(p.stat().st_size for p in assets) < 8_000_000
    assert "standard library" in (SUBJECT_PATH.parent / "PROVENANCE.md").read_text()


def test_naming_the_assets_loads_no_torch() -> None:
    code = "import sys, labeler.bundled; assert labeler.bundled.SAE_PATH.is_dir(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_subject_and_sae_belong_together(subject: Subject) -> None:
    sae = load_sae(str(SAE_PATH))
    assert sae.hookpoint == HOOKPOINT
    assert sae.d_in == subject.hidden_size
    assert sae.n_features == 1536
    assert subject.hookpoint(HOOKPOINT).path == HOOKPOINT


def test_the_tokenizer_gives_the_text_back(subject: Subject) -> None:
    text = CODE + "\tπ ≠ 3 🙂\n"
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert subject.tokenizer.decode(ids) == text
    assert len(ids) < len(text) / 2


def test_the_sae_explains_code_that_it_never_saw(subject: Subject) -> None:
    figures = measure(subject, SAE_PATH, list(token_batches(subject, [Document("basket", CODE)], 256)))
    assert figures.n_tokens > 250
    losses = figures.losses
    assert losses.cross_entropy < 0.6 * math.log(4096)  # nats; the logarithm is what knowing nothing costs
    assert figures.l0 == pytest.approx(16, abs=0.5)
    assert figures.explained_variance > 0.85
    assert losses.recovered is not None
    assert losses.recovered > 0.9
    assert losses.cross_entropy < losses.cross_entropy_sae < losses.cross_entropy_mean


def test_figures_tell_a_broken_sae(subject: Subject, tmp_path: Path) -> None:
    """The same SAE with its features' directions swapped round explains nothing and recovers nothing."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(SAE_PATH / "sae_weights.safetensors")
    tensors["W_dec"] = tensors["W_dec"].roll(1, dims=0).contiguous()
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_bytes((SAE_PATH / "cfg.json").read_bytes())
    figures = measure(subject, tmp_path, list(token_batches(subject, [Document("basket", CODE)], 256)))
    assert figures.explained_variance < 0.2
    assert figures.losses.recovered is not None
    assert figures.losses.recovered < 0.7


def test_no_file_is_both_trained_on_and_held_out() -> None:
    training, held_out = split_documents(DemoConfig(documents=60, held_out_share=0.3))
    assert len(training) + len(held_out) == 60
    assert 6 <= len(held_out) <= 30
    assert not {d.text for d in training} & {d.text for d in held_out}


def test_a_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(InputError, match="--documents"):
        split_documents(DemoConfig(documents=1))


def test_the_script_trains_a_subject_and_an_sae_that_load(tiny: Path) -> None:
    subject, sae = load_subject(str(tiny / "subject"), device="cpu"), load_sae(str(tiny / "sae"))
    assert (subject.hidden_size, len(subject.tokenizer)) == (32, 300)
    assert (sae.d_in, sae.n_features, sae.hookpoint) == (32, 64, "gpt_neox.layers.0")
    for weights in (tiny / "subject" / "model.safetensors", tiny / "sae" / "sae_weights.safetensors"):
        assert _dtypes(weights) == {torch.float16}


def test_the_script_learns(tiny: Path) -> None:
    figures = json.loads((tiny / "figures.json").read_text())["figures"]
    assert figures["cross_entropy"] < 0.9 * math.log(300)
    assert figures["explained_variance"] > 0.3
    assert figures["n_tokens"] > 500


def test_the_sae_can_be_trained_alone(tiny: Path, tmp_path: Path) -> None:
    """On the same subject, with the same seed: the same SAE, and no second subject."""
    main([str(tmp_path), "--subject", str(tiny / "subject"), *TINY])
    assert not (tmp_path / "subject").exists()
    again, first = (json.loads((out / "figures.json").read_text())["figures"] for out in (tmp_path, tiny))
    assert again == pytest.approx(first, rel=1e-3)


def _dtypes(path: Path) -> set[torch.dtype]:
    from safetensors.torch import load_file

    return {t.dtype for t in load_file(path).values()}
