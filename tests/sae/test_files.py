"""Odd files that are still right, and damaged ones; each by way of `load_sae`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from labeler.errors import FormatError, InputError
from labeler.sae import load_sae

GOLDEN = Path(__file__).parents[1] / "golden" / "sae"


def copy(name: str, to: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, to))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "file"), [("gemma", "params.npz"), ("dl_AutoEncoder", "ae.pt"), ("openai_relu", "6.pt")]
)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_files_cut_short_are_named_and_left_closed(tmp_path: Path, name: str, file: str, kept: float) -> None:
    path = copy(name, tmp_path / "sae") / file
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(FormatError, match=f"{file}: (damaged|refused: it is damaged)"):
        load_sae(str(path))


def test_bytes_turned_over_in_an_archive_are_found(tmp_path: Path) -> None:
    path = copy("gemma", tmp_path / "sae") / "params.npz"
    data = bytearray(path.read_bytes())
    data[1000] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"params\.npz: damaged"):
        load_sae(str(path))


def test_a_state_dict_is_expected_in_a_torch_file(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "6.pt")
    with pytest.raises(FormatError, match="expected a state dict, found list"):
        load_sae(str(tmp_path))


def test_weights_that_are_no_matrix_are_named(tmp_path: Path) -> None:
    folder = copy("saelens_standard", tmp_path / "sae")
    tensors = load_file(folder / "sae_weights.safetensors")
    save_file(tensors | {"W_dec": tensors["W_dec"][:, :, None]}, folder / "sae_weights.safetensors")
    with pytest.raises(FormatError, match=r"decoder weight has shape \(64, 16, 1\), expected a matrix"):
        load_sae(str(folder))


def test_a_decoder_row_of_zeros_is_a_feature_that_writes_nothing(tmp_path: Path) -> None:
    """Dividing by its norm would make the whole reconstruction NaN."""
    folder = copy("saelens_train_topk", tmp_path / "sae")
    tensors = load_file(folder / "sae_weights.safetensors")
    tensors["W_dec"][5] = 0
    save_file(tensors, folder / "sae_weights.safetensors")
    sae, hidden = load_sae(str(folder)), torch.load(GOLDEN / "saelens_train_topk" / "ref.pt", weights_only=True)["x"]
    assert sae.w_dec[5].abs().max() == 0
    assert torch.isfinite(sae.decode(sae.encode(hidden))).all()


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "4", float("nan"), [4]])
def test_k_is_a_whole_number_above_0(tmp_path: Path, k: object) -> None:
    folder = copy("sparsify_topk", tmp_path / "sae") / "layers.1"
    change_json(folder / "cfg.json", k=k)
    with pytest.raises(FormatError, match=r"k is .*; expected a whole number above 0"):
        load_sae(str(folder))


def test_dictionary_learning_may_have_k_in_the_configuration_alone(tmp_path: Path) -> None:
    folder = copy("dl_AutoEncoderTopK", tmp_path / "sae")
    tensors = torch.load(folder / "ae.pt", weights_only=True)
    del tensors["k"], tensors["threshold"]
    torch.save(tensors, folder / "ae.pt")
    assert load_sae(str(folder)).selection.k == 4
    (folder / "config.json").write_text('{"trainer": null}')
    with pytest.raises(FormatError, match="no object `trainer`"):
        load_sae(str(folder))


@pytest.mark.parametrize("key", ["gram_lookup", "embed_skip"])
def test_sparsify_coders_that_read_more_than_hidden_states_are_refused(tmp_path: Path, key: str) -> None:
    folder = copy("sparsify_topk", tmp_path / "sae") / "layers.1"
    change_json(folder / "cfg.json", **{key: True})
    with pytest.raises(FormatError, match=f"it needs {key}, which is not supported"):
        load_sae(str(folder))


def test_sparsify_groups_divide_the_features(tmp_path: Path) -> None:
    folder = copy("sparsify_topk", tmp_path / "sae") / "layers.1"
    change_json(folder / "cfg.json", activation="groupmax", k=5)
    with pytest.raises(FormatError, match="64 features do not divide into 5 groups"):
        load_sae(str(folder))


def test_one_of_several_seeds_is_read_at_the_hookpoint_above_it(tmp_path: Path) -> None:
    for seed in ("seed0", "seed1"):
        shutil.copytree(GOLDEN / "sparsify_topk" / "layers.1", tmp_path / "layers.1" / seed)
    assert load_sae(str(tmp_path / "layers.1" / "seed1")).hookpoint == "layers.1"


def test_a_hookpoint_chooses_with_or_without_its_prefix(tmp_path: Path) -> None:
    for name in ("layers.1", "layers.11"):
        shutil.copytree(GOLDEN / "sparsify_topk" / "layers.1", tmp_path / name)
    for hookpoint in ("layers.1", "gpt_neox.layers.1"):
        assert load_sae(str(tmp_path), hookpoint=hookpoint).hookpoint == "layers.1"
    with pytest.raises(InputError, match=r"holds no SAE of 'layers\.2', but of layers\.1, layers\.11"):
        load_sae(str(tmp_path), hookpoint="layers.2")


def test_a_folder_of_several_torch_files_needs_one_of_them(tmp_path: Path) -> None:
    folder = copy("openai_relu", tmp_path / "sae")
    shutil.copy(folder / "6.pt", folder / "7.pt")
    with pytest.raises(InputError, match=r"holds several SAEs \(6\.pt, 7\.pt\); choose one"):
        load_sae(str(folder))
    assert load_sae(str(folder / "7.pt")).source.path.name == "7.pt"


def test_openai_activations_after_the_top_k_other_than_relu_are_refused(tmp_path: Path) -> None:
    tensors = torch.load(GOLDEN / "openai_relu" / "6.pt", weights_only=True)
    tensors |= {"activation": "TopK", "activation_state_dict": {"k": 4, "postact_fn": "Identity"}}
    torch.save(tensors, tmp_path / "6.pt")
    with pytest.raises(FormatError, match="postact_fn 'Identity' is not supported"):
        load_sae(str(tmp_path))
