"""What the names of published repositories and files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from labeler.published.names import l0_in, layer_of, origin_of, width_in


@pytest.mark.parametrize(
    ("origin", "layer"),
    [
        ("google/gemma-scope-2b-pt-mlp/layer_12/width_16k/average_l0_82/params.npz", 12),
        ("fnlp/Llama3_1-8B-Base-LXA-8x/Llama3_1-8B-Base-L15A-8x", 15),
        ("fnlp/Llama-Scope-R1-Distill/400M-Slimpajama/L0R", 0),
        ("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", 19),
        ("gpt2-small_L0_Hcat_z", 0),
        ("a/b/L1_8x", 1),
        ("EleutherAI/sae-pythia-70m-32k/layers.3.mlp", 3),
        # Counts and norms that are called like a layer.
        ("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", None),
        ("google/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6/params.npz", None),
        ("owner/saes/l0_medium/params", None),
        ("owner/num_layers_26/layer_3/ae", 3),
        ("owner/layer_3/n_layers_26/ae", 3),
        ("owner/num_layers_26/ae", None),
        ("owner/saes/l1_0.04/ae", None),
        ("owner/saes/l1_4e-3/ae", None),
        ("run_lr1.20e-03_l11.80e+00", None),
    ],
)
def test_a_layer_is_read_and_a_count_or_a_norm_is_not_taken_for_one(origin: str, layer: int | None) -> None:
    assert layer_of(origin) == layer


@pytest.mark.parametrize(
    ("path", "width", "l0"),
    [
        ("layer_12/width_16k/average_l0_82", "16k", "82"),
        ("transcoder/layer_17_width_262k_l0_big_affine", "262k", "big"),
        ("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer0.sae.pt", "32k", "50"),
        ("EleutherAI/sae-pythia-70m-32k/layers.3", "32k", ""),
        ("canrager/saebench_width-2pow12_date-1109/resid_post_layer_12", "2pow12", ""),
        ("Llama3_1-8B-Base-L0A-8x", "", ""),
        ("gpt2-small_L0_Hcat_z", "", ""),
    ],
)
def test_width_and_l0_are_read_where_the_name_says_them(path: str, width: str, l0: str) -> None:
    assert (width_in(path), l0_in(path)) == (width, l0)


def test_the_origin_is_told_by_the_cache_folder_and_not_by_the_file_that_its_link_leads_to(tmp_path: Path) -> None:
    repository = tmp_path / "models--google--gemma-scope-2b-pt-res"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "f00d").touch()
    folder = repository / "snapshots" / "0123abcd" / "layer_3"
    folder.mkdir(parents=True)
    (folder / "params.npz").symlink_to("../../../blobs/f00d")
    origin = "google/gemma-scope-2b-pt-res/layer_3/params.npz"
    assert origin_of(folder / "params.npz") == origin
    (tmp_path / "short").symlink_to(folder)
    assert origin_of(tmp_path / "short" / "params.npz") == origin
    assert origin_of(tmp_path / "google--gemma-scope-2b-pt-res" / "layer_3" / "params.npz") == origin
    assert origin_of(tmp_path / "plain" / "params.npz") == str(tmp_path / "plain" / "params.npz").lstrip("/")
