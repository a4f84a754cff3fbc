"""Hub names, against a hub cache on disk; no test reaches a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from labeler.errors import FormatError, NotFoundError
from labeler.sae import load_sae, registry

GOLDEN = Path(__file__).parents[1] / "golden" / "sae"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network, on which `owner/saes` was downloaded before."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--saes"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(GOLDEN / "sparsify_topk" / "layers.1", repository / "snapshots" / COMMIT / "layers.1")
    shutil.copytree(GOLDEN / "gemma", repository / "snapshots" / COMMIT / "layer_2" / "width_64")


@pytest.mark.parametrize(
    "name", ["hf:owner/saes/layers.1", "hf:owner/saes/layers.1@main", f"hf:owner/saes/layers.1@{COMMIT}"]
)
def test_what_was_downloaded_is_read_and_pinned_to_its_commit(name: str) -> None:
    sae = load_sae(name)
    assert sae.source.format == "sparsify"
    assert sae.source.revision == COMMIT


def test_a_repository_of_several_is_searched_by_hookpoint() -> None:
    assert load_sae("hf:owner/saes", hookpoint="gpt_neox.layers.1").hookpoint == "layers.1"


@pytest.mark.parametrize("name", ["hf:owner/other", "hf:owner/saes/layers.1@v2"])
def test_what_was_not_downloaded_says_what_to_fetch_and_where_to_put_it(name: str) -> None:
    with pytest.raises(NotFoundError, match=r"Download .* of the repository owner/.* give that folder as --sae"):
        load_sae(name)


def test_a_path_that_the_repository_does_not_hold() -> None:
    with pytest.raises(
        NotFoundError, match=r"no such file or folder as layers\.9; name one that it holds: hf:owner/saes/layers\.1"
    ):
        load_sae("hf:owner/saes/layers.9")


_REGISTRY = """
a-release: {repo_id: owner/saes, saes: [{id: layer_2/canonical, path: layer_2/width_64}]}
centered:
  repo_id: owner/saes
  saes: [{id: one, path: layers.1, norm_scaling_factor: 2.0}]
  config_overrides: {dataset_path: x, model_from_pretrained_kwargs: {center_writing_weights: true}}
odd: {repo_id: owner/saes, saes: [{id: one, path: layers.1}], config_overrides: {k: 3}}
"""


def test_a_release_is_looked_up_in_the_installed_sae_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "installed" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "pretrained_saes.yaml").write_text(_REGISTRY)
    monkeypatch.syspath_prepend(package.parent)
    assert load_sae("sae-lens:a-release/layer_2/canonical").source.format == "gemma_scope"
    centered = load_sae("sae-lens:centered/one")
    assert centered.hookpoint == "layers.1|centered"
    # Its files ask for no scaled input, so that the registry's factor is not theirs.
    assert centered.remarks == ("by sae-lens' registry: center_writing_weights",)
    with pytest.raises(FormatError, match="registry sets k, which is not supported"):
        load_sae("sae-lens:odd/one")
    with pytest.raises(NotFoundError, match="lists no such release"):
        load_sae("sae-lens:a-release/layer_3/canonical")
    (package / "pretrained_saes.yaml").write_text("SAE_LOOKUP: {a: {}}")
    registry._releases.cache_clear()
    with pytest.raises(FormatError, match="update sae-lens"):
        load_sae("sae-lens:a-release/layer_2/canonical")
