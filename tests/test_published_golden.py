"""Every published file that sae-lens' or circuit-tracer's own numbers were kept of, from gathering to labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from labeler.evidence.store import EvidenceFolder
from tests.hub_server import COMMIT
from tests.sae.test_published import FACTORS, PUBLISHED, REFS, path_of, reference
from tests.test_published_way import corpus, gather, write_subject

__all__ = ["corpus"]
N_LAYERS = 20  # the deepest file is of layer 19
# The model that a repository's SAEs are of, by a word of its name.
_SUBJECTS = {
    "gemma-scope-2-": "gemma3_text",
    "gemma-2": "gemma2",
    "gemma-scope": "gemma2",
    "gpt2": "gpt2",
    "pursuit": "gpt2",
    "qwen3": "qwen3",
    "llama": "llama",
}
_TRACER = sorted(path.name for path in (PUBLISHED / "circuit_tracer").iterdir())


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny random model of a family with as many blocks as the files need, made once."""
    folder = tmp_path_factory.mktemp("deep")

    def made(model_type: str) -> Path:
        if not (folder / model_type).exists():
            write_subject(model_type, folder / model_type, N_LAYERS)
        return folder / model_type

    return made


def subject_of(repository: str) -> str:
    return next(kind for word, kind in _SUBJECTS.items() if word in repository.lower())


def registered(ref: dict[str, Any], factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a repository into the hub's cache, and an SAE of it with its factor into a registry of sae-lens."""
    repository = tmp_path / "hub" / f"models--{ref['repo'].replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(PUBLISHED / "hub" / ref["repo"].replace("/", "--"), repository / "snapshots" / COMMIT)
    sae = {"id": "one", "path": ref["path"], "norm_scaling_factor": factor}
    file = tmp_path / "pretrained_saes.yaml"
    file.write_text(json.dumps({"a": {"repo_id": ref["repo"], "saes": [sae]}}))  # which is YAML, too
    monkeypatch.setattr("labeler.sae.registry.registry_file", lambda: file)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return "sae-lens:a/one"


def labeled(run, evidence: Path) -> int:  # type: ignore[no-untyped-def]
    done = run("label", evidence, "--features", "0-63", "--json")
    assert done.code == 0, done.err
    return int(json.loads(done.out)["now"].get("labeled", 0))


@pytest.mark.parametrize("name", REFS)
def test_a_file_whose_numbers_are_known_is_gathered_and_labeled(  # type: ignore[no-untyped-def]
    name: str, run, deep: Callable[[str], Path], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = reference(name)
    sae = str(path_of(ref))
    if factor := next((f for start, f in FACTORS.items() if name.startswith(start)), None):
        sae = registered(ref, factor, tmp_path, monkeypatch)
    gather(run, deep(subject_of(ref["repo"])), sae, corpus, tmp_path / "evidence")
    manifest = EvidenceFolder(tmp_path / "evidence").manifest
    assert manifest["sae"]["n_features"] == ref["acts"].shape[1]
    assert labeled(run, tmp_path / "evidence") >= 1


@pytest.mark.parametrize("name", _TRACER)
def test_a_set_of_circuit_tracer_is_gathered_and_labeled_layer_by_layer(  # type: ignore[no-untyped-def]
    name: str, run, deep: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    gather(run, deep("llama"), str(PUBLISHED / "circuit_tracer" / name), corpus, tmp_path / "evidence")
    layers = sorted((tmp_path / "evidence").iterdir())
    assert len(layers) == 3
    assert all(labeled(run, layer) >= 1 for layer in layers)
