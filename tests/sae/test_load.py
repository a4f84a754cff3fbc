"""What is refused, and how it is said; and the formats of which no original was at hand, against their formulas."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from labeler.errors import FormatError, InputError, MismatchError, NotFoundError
from labeler.sae import identity_sae, load_sae
from labeler.sae.formats.saelens import save_saelens

GOLDEN = Path(__file__).parents[1] / "golden" / "sae"
D, F = 16, 64


@pytest.fixture
def topk(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "saelens_topk", tmp_path / "sae")
    return tmp_path / "sae"


def change_cfg(folder: Path, **changes: object) -> None:
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(cfg | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "sae_weights.safetensors")
    change(tensors)
    save_file(tensors, folder / "sae_weights.safetensors")


def make_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["W_enc"][3, 4] = float("nan")


def cut_bias(tensors: dict[str, torch.Tensor]) -> None:
    tensors["b_enc"] = tensors["b_enc"][:-1].clone()


def test_a_truncated_file_is_named(topk: Path) -> None:
    weights = topk / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(FormatError, match=r"sae_weights\.safetensors: damaged or cut short"):
        load_sae(str(topk))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (make_nan, "encoder weight holds NaN or infinity"),
        (cut_bias, r"encoder bias has shape \(63,\), expected \(64,\)"),
        (lambda t: t.pop("W_dec"), "no tensor 'W_dec' among W_enc"),
    ],
)
def test_tensors_that_cannot_be_right_are_named(
    topk: Path, change: Callable[[dict[str, torch.Tensor]], None], says: str
) -> None:
    change_tensors(topk, change)
    with pytest.raises(FormatError, match=says):
        load_sae(str(topk))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "temporal"}, "'temporal' is not supported; known are standard"),
        ({"architecture": "matching_pursuit"}, "does not have: W_enc, b_enc"),
        ({"architecture": "batchtopk"}, "'batchtopk' is a training checkpoint"),
        ({"normalize_activations": "odd"}, "normalize_activations 'odd'"),
        ({"k": None}, "gives no k"),
        ({"k": 65}, "k is 65; expected 1 to 64"),
    ],
)
def test_configurations_that_we_do_not_know_are_refused(topk: Path, changes: dict[str, object], says: str) -> None:
    change_cfg(topk, **changes)
    with pytest.raises(FormatError, match=says):
        load_sae(str(topk))


def test_damaged_or_missing_configurations_are_named(topk: Path) -> None:
    (topk / "cfg.json").write_text("{")
    with pytest.raises(FormatError, match=r"cfg\.json: damaged"):
        load_sae(str(topk))
    (topk / "cfg.json").unlink()
    with pytest.raises(NotFoundError, match=r"cfg\.json is missing"):
        load_sae(str(topk))


def test_what_is_not_there_or_no_sae_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file or folder"):
        load_sae(str(tmp_path / "none"))
    with pytest.raises(FormatError, match=r"looked for files that end in \.safetensors, \.npz, \.pt, \.pth"):
        load_sae(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FormatError, match="not a file that we know"):
        load_sae(str(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match="dtype 'int8'"):
        load_sae(str(GOLDEN / "saelens_topk"), dtype="int8")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "pwned").touch, ())  # type: ignore[return-value]

    (tmp_path / "6.pt").write_bytes(pickle.dumps({"pre_bias": Evil()}, protocol=2))
    with pytest.raises(FormatError, match="would execute code from the file"):
        load_sae(str(tmp_path / "6.pt"))
    np.savez(tmp_path / "params.npz", W_enc=np.array([Evil()], dtype=object))
    with pytest.raises(FormatError, match="needs pickle, which is refused"):
        load_sae(str(tmp_path / "params.npz"))
    assert not (tmp_path / "pwned").exists()


def test_a_folder_of_several_needs_a_choice(tmp_path: Path) -> None:
    for name in ("layers.1", "layers.2"):
        shutil.copytree(GOLDEN / "sparsify_topk" / "layers.1", tmp_path / name)
    with pytest.raises(InputError, match=r"holds several SAEs \(layers\.1, layers\.2\)"):
        load_sae(str(tmp_path))
    assert load_sae(str(tmp_path), hookpoint="layers.2").hookpoint == "layers.2"


def test_hidden_states_of_another_width_are_refused() -> None:
    with pytest.raises(MismatchError, match="reads vectors of 16 and was given vectors of 8"):
        load_sae(str(GOLDEN / "saelens_topk")).encode(torch.zeros(2, 8))


@pytest.mark.parametrize("name", ["hf:one", "hf:", "sae-lens:release"])
def test_hub_names_that_cannot_be_read(name: str) -> None:
    with pytest.raises(InputError, match="expected"):
        load_sae(name)


@pytest.mark.parametrize("name", ["hf:owner/repo/path@main", "hf:owner/repo", "sae-lens:release/id"])
def test_without_a_network_the_message_says_what_to_do(name: str) -> None:
    with pytest.raises(NotFoundError, match=r"give that folder as --sae|hf:OWNER/REPO"):
        load_sae(name)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


HIDDEN = random(40, D, seed=9)


def test_gated_of_dictionary_learning(tmp_path: Path) -> None:
    t = {
        "decoder_bias": random(D, seed=1),
        "r_mag": random(F, seed=2) / 4,
        "gate_bias": random(F, seed=3),
        "mag_bias": random(F, seed=4),
        "encoder.weight": random(F, D, seed=5),
        "decoder.weight": random(D, F, seed=6),
    }
    torch.save(t, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "GatedAutoEncoder"}}))
    sae = load_sae(str(tmp_path))
    z = (HIDDEN - t["decoder_bias"]) @ t["encoder.weight"].T
    expected = (z + t["gate_bias"] > 0) * (z * t["r_mag"].exp() + t["mag_bias"]).relu()
    torch.testing.assert_close(sae.encode(HIDDEN), expected)
    torch.testing.assert_close(sae.decode(expected), expected @ t["decoder.weight"].T + t["decoder_bias"])


@pytest.mark.parametrize("kind", ["JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"])
def test_threshold_classes_of_dictionary_learning(tmp_path: Path, kind: str) -> None:
    threshold = random(F, seed=5).abs() if kind == "JumpReluAutoEncoder" else torch.tensor(0.7)
    t = {
        "W_enc": random(D, F, seed=1),
        "b_enc": random(F, seed=2),
        "W_dec": random(F, D, seed=3),
        "b_dec": random(D, seed=4),
        "threshold": threshold,
    }
    torch.save(t, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(
        json.dumps({"trainer": {"dict_class": kind, "layer": 3, "submodule_name": "resid_post_layer_3"}})
    )
    sae = load_sae(str(tmp_path))
    x = HIDDEN if kind == "JumpReluAutoEncoder" else HIDDEN - t["b_dec"]
    z = x @ t["W_enc"] + t["b_enc"]
    torch.testing.assert_close(sae.encode(HIDDEN), z.relu() * (z > threshold))
    assert sae.hookpoint == "blocks.3.hook_resid_post"


def test_topk_of_openai_normalises_its_input(tmp_path: Path) -> None:
    t = {
        "pre_bias": random(D, seed=1),
        "latent_bias": random(F, seed=2),
        "encoder.weight": random(F, D, seed=3),
        "decoder.weight": random(D, F, seed=4),
        "activation": "TopK",
        "activation_state_dict": {"k": 5},
    }
    torch.save(t, tmp_path / "8.pt")
    sae = load_sae(str(tmp_path / "8.pt"))
    mean = HIDDEN.mean(1, keepdim=True)
    std = (HIDDEN - mean).std(1, keepdim=True)
    z = ((HIDDEN - mean) / (std + 1e-5) - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"]
    best = z.topk(5, dim=1)
    expected = torch.zeros_like(z).scatter_(1, best.indices, best.values.relu())
    torch.testing.assert_close(sae.encode(HIDDEN), expected)
    torch.testing.assert_close(
        sae.decode(expected, HIDDEN), (expected @ t["decoder.weight"].T + t["pre_bias"]) * std + mean
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"k": 7}, "it holds k: 4, and config.json says 7"),
        ({"layer": 3}, "layer: 3 and submodule_name: 'resid_post_layer_1'"),
    ],
)
def test_a_configuration_that_contradicts_itself_or_its_tensors_is_refused(
    tmp_path: Path, changes: dict[str, int], why: str
) -> None:
    folder = tmp_path / "sae"
    shutil.copytree(GOLDEN / "dl_AutoEncoderTopK", folder)
    trainer = json.loads((folder / "config.json").read_text())["trainer"]
    (folder / "config.json").write_text(json.dumps({"trainer": trainer | changes}))
    with pytest.raises(FormatError, match=why):
        load_sae(str(folder))


def test_a_signed_sparsify_sae_keeps_negative_activations_and_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "layers.1"
    shutil.copytree(GOLDEN / "sparsify_topk" / "layers.1", folder)
    change_cfg(folder, signed=True)
    with pytest.raises(FormatError, match=r"cfg\.json says signed: True, which changes what a feature is"):
        load_sae(str(folder))


@pytest.mark.parametrize("config", [None, {"k": 50}, {"k": 20}])
def test_qwen_scope_takes_k_from_its_repository_and_refuses_another(
    tmp_path: Path, config: dict[str, int] | None
) -> None:
    repository = "Qwen--SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"
    folder = tmp_path / repository
    shutil.copytree(GOLDEN.parent / "published" / "hub" / repository, folder)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if config == {"k": 20}:
        with pytest.raises(FormatError, match=r"config\.json says k: 20, and the repository's name 50"):
            load_sae(str(folder))
    else:
        assert load_sae(str(folder)).selection.k == 50


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify_groupmax_skip_and_transcode(tmp_path: Path, activation: str, transcode: bool) -> None:
    folder, k = tmp_path / "layers.3.mlp", 4
    folder.mkdir()
    t = {
        "encoder.weight": random(F, D, seed=1),
        "encoder.bias": random(F, seed=2),
        "W_dec": random(F, D, seed=3),
        "b_dec": random(D, seed=4),
        "W_skip": random(D, D, seed=5),
    }
    save_file(t, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(
        json.dumps({"activation": activation, "k": k, "transcode": transcode, "skip_connection": True})
    )
    sae = load_sae(str(tmp_path))
    z = ((HIDDEN if transcode else HIDDEN - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    if activation == "topk":
        best = z.topk(k, dim=1)
        values, indices = best.values, best.indices
    else:
        values, place = z.view(-1, k, F // k).max(dim=2)
        indices = place + torch.arange(k) * (F // k)
    expected = torch.zeros_like(z).scatter_(1, indices, values)
    torch.testing.assert_close(sae.encode(HIDDEN), expected)
    torch.testing.assert_close(
        sae.decode(expected, HIDDEN), expected @ t["W_dec"] + t["b_dec"] + HIDDEN @ t["W_skip"].T
    )
    # With a skip connection it is a transcoder, also where cfg.json does not say so; then its input is centered.
    assert sae.reads_input
    assert sae.is_transcoder
    assert sae.hookpoint == "layers.3.mlp"


def test_neurons_are_an_sae_whose_encoder_is_the_identity() -> None:
    sae = identity_sae(D, "layers.0.mlp")
    torch.testing.assert_close(sae.encode(HIDDEN), HIDDEN.relu())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    t = {"W_enc": random(D, F), "b_enc": random(F), "W_dec": random(F, D), "b_dec": random(D)}
    save_saelens(
        tmp_path / "sae", t, {"architecture": "standard", "d_in": D, "d_sae": F, "metadata": {"hook_name": "layers.1"}}
    )
    sae = load_sae(str(tmp_path / "sae"))
    torch.testing.assert_close(sae.encode(HIDDEN), ((HIDDEN - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu())
    assert sae.hookpoint == "layers.1"
    assert len(sae.source.sha256) == 64
