"""Older and other keys of SAELens' cfg.json: read as SAELens reads them, or refused by name.

The expected values are formulas. Each configuration that is read was also compared with sae-lens 6.54: they agree to 1e-5.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from labeler.errors import FormatError
from labeler.sae import load_sae
from labeler.sae.registry import Registered, as_registered
from labeler.sae.sae import SAE

D, F = 16, 32
HIDDEN = torch.randn(10, D, generator=torch.Generator().manual_seed(1))
HOOK = {"hook_name": "blocks.1.hook_resid_pre"}
TOPK = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
VERSION_6 = {"metadata": {"sae_lens_version": "6.5.0", **HOOK}}


def tensors(*more: str) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D, F), "W_dec": (F, D), "b_enc": (F,), "b_dec": (D,)}
    return {name: torch.randn(shape, generator=made) / 2 for name, shape in shapes.items()} | {
        name: torch.rand(F, generator=made) for name in more
    }


def read(folder: Path, cfg: dict[str, Any], *more: str) -> SAE:
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": F, **HOOK, **cfg}))
    save_file(tensors(*more), folder / "sae_weights.safetensors")
    return load_sae(str(folder))


def relu(x: Tensor) -> Tensor:
    t = tensors()
    return ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()


def relu_not_centered(x: Tensor) -> Tensor:
    return relu(x + tensors()["b_dec"])


def top4(x: Tensor) -> Tensor:
    values, features = relu(x).topk(4)
    return torch.zeros(len(x), F).scatter(1, features, values)


def layer_norm(x: Tensor) -> Tensor:
    return relu((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5))


def constant_norm(x: Tensor) -> Tensor:
    return relu(x * D**0.5 / x.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("cfg", "activations"),
    [
        ({}, relu),
        ({"hook_point": HOOK["hook_name"], "hook_point_layer": 1, "hook_point_head_index": None}, relu),
        ({"activation_fn": "relu", "activation_fn_kwargs": {}, "activation_fn_str": "relu"}, relu),
        ({"apply_b_dec_to_input": False}, relu_not_centered),
        ({"normalize_sae_decoder": True, "decoder_heuristic_init": True, "b_dec_init_method": "mean"}, relu),
        (
            {"init_encoder_as_decoder_transpose": True, "use_ghost_grads": True, "lp_norm": 1.0, "dtype": "float16"},
            relu,
        ),
        ({"reshape_activations": "hook_z", "hook_name": "blocks.1.attn.hook_z"}, relu),
        ({"normalize_activations": True}, relu),
        ({"normalize_activations": "layer_norm"}, layer_norm),
        ({"normalize_activations": "constant_norm_rescale"}, constant_norm),
        # The metadata of version 6 are of the subject: what decides the encoder is beside them.
        ({"metadata": {"sae_lens_version": "6.5.0", "normalize_activations": "layer_norm"}}, relu),
        (TOPK, top4),
        (TOPK | {"architecture": "topk", "k": 4}, top4),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 4, "use_sparse_activations": True}}, top4),
        (VERSION_6 | {"architecture": "topk", "k": 4}, top4),
    ],
)
def test_older_keys_are_read_as_sae_lens_reads_them(
    cfg: dict[str, Any], activations: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    sae = read(tmp_path / "sae", cfg)
    torch.testing.assert_close(sae.encode(HIDDEN), activations(HIDDEN), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("cfg", "more", "why"),
    [
        ({"activation_fn_str": "tanh-relu"}, (), "activation_fn_str: 'tanh-relu'"),
        ({"activation_fn": "tanh-relu"}, (), "activation_fn: 'tanh-relu'"),
        (
            TOPK | {"activation_fn": "relu"},
            (),
            "activation_fn_str: 'topk' and activation_fn: 'relu', which are two names",
        ),
        ({"hook_point": "blocks.2.hook_resid_pre"}, (), "two names of one value"),
        (TOPK | {"architecture": "jumprelu"}, ("threshold",), "contradict each other"),
        (TOPK | {"architecture": "standard"} | VERSION_6, (), "contradict each other"),
        (TOPK | {"activation_fn_kwargs": {"k": 4, "signed": True}}, (), "activation_fn_kwargs says signed: True"),
        (TOPK | {"activation_fn_kwargs": {"k": 4, "postact_fn": "Identity"}}, (), "postact_fn: 'Identity'"),
        (TOPK | {"architecture": "topk", "k": 8}, (), "k: 8 and in activation_fn_kwargs k: 4"),
        ({"activation_fn": "topk", "k": 5}, (), "gives no k"),
        ({"rescale_acts_by_decoder_norm": True}, (), "'standard' SAE says rescale_acts_by_decoder_norm: True"),
        (
            {"architecture": "jumprelu", "rescale_acts_by_decoder_norm": True},
            ("threshold",),
            "'jumprelu' SAE says rescale",
        ),
        (
            {"architecture": "transcoder", "apply_b_dec_to_input": True},
            (),
            "'transcoder' SAE says apply_b_dec_to_input",
        ),
        ({"is_transcoder": True}, (), "is_transcoder: True"),
        ({"reshape_activations": "heads"}, (), "reshape_activations: 'heads'"),
        ({"normalize_activations": "covariance_whitening"}, (), "normalize_activations 'covariance_whitening'"),
        ({"finetuning_scaling_factor": True}, ("scaling_factor",), "finetuning_scaling_factor: True"),
        ({}, ("scaling_factor",), "scaling_factor is not 1"),
        ({}, ("threshold",), "tensors that this format does not have: threshold"),
        ({"hook_point_head_index": 3}, (), "hook_point_head_index: 3"),
        ({"architecture": "batchtopk", "k": 4}, (), "'batchtopk' is a training checkpoint"),
        (TOPK | {"activation_fn_kwargs": {}}, (), "gives no k"),
    ],
)
def test_keys_that_change_a_feature_and_are_not_read_are_refused_by_name(
    cfg: dict[str, Any], more: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=why):
        read(tmp_path / "sae", cfg, *more)


def test_a_factor_that_is_taken_to_be_folded_in_is_remarked_unless_the_registry_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = read(tmp_path / "sae", {"normalize_activations": "expected_average_only_in"})
    assert [remark for remark in sae.remarks if "taken to be in the weights already" in remark]
    entry = Registered("a", "one", "owner/saes", "one", None, {}, 2.0)
    monkeypatch.setattr("labeler.sae.registry.registered", lambda _: entry)
    scaled = as_registered(sae, entry.name)
    assert not [remark for remark in scaled.remarks if "taken to be" in remark]
    torch.testing.assert_close(scaled.encode(HIDDEN), relu(HIDDEN * 2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["standard", "matching_pursuit"])
def test_the_tokens_left_out_of_training_are_known_of_every_architecture(architecture: str, tmp_path: Path) -> None:
    cfg = {"architecture": architecture, "exclude_special_tokens": [7], "seqpos_slice": [1, None]}
    folder = tmp_path / "sae"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({**HOOK, **cfg}))
    kept = tensors() if architecture == "standard" else {name: tensors()[name] for name in ("W_dec", "b_dec")}
    save_file(kept, folder / "sae_weights.safetensors")
    sae = load_sae(str(folder))
    assert (sae.excluded_tokens, sae.positions) == ((7,), (1, None))
