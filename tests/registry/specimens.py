"""Small SAEs in the layout of each SAE that sae-lens' registry lists, written where its repository has them.

A registry gives repository and path, and the converter by which sae-lens reads the files; which files lie there was read
off the converters. Widths are tiny, and values come from a fixed seed: equal files on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from labeler.sae.registry import Registered

D, F, PLACES = 16, 128, 3  # as many features as the largest k asks for


def hidden() -> Tensor:
    """Vectors that an SAE reads, [12, D]."""
    return tensor("hidden", 12, D)


@cache
def array(name: str, *shape: int) -> np.ndarray:
    """Values of a fixed generator, whose stream numpy keeps over versions."""
    seed = sum(ord(letter) * (i + 1) for i, letter in enumerate(name))
    values = np.random.RandomState(seed).standard_normal(shape)
    return (values * (0.1 if name.startswith("b") else 0.5)).astype(np.float32)


def tensor(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(array(name, *shape).copy())


def threshold() -> Tensor:
    return torch.from_numpy(np.abs(array("threshold", F)) * 0.5 + 0.1)


def _plain() -> dict[str, Tensor]:
    """Tensors as SAELens names them."""
    return {
        "W_enc": tensor("encoder", D, F),
        "W_dec": tensor("decoder", F, D),
        "b_enc": tensor("b_enc", F),
        "b_dec": tensor("b_dec", D),
    }


def _linear(kind: str = "") -> dict[str, Tensor]:
    """The same as two linear layers."""
    plain = _plain()
    return {
        f"encoder{kind}.weight": plain["W_enc"].T.contiguous(),
        f"encoder{kind}.bias": plain["b_enc"],
        f"decoder{kind}.weight": plain["W_dec"].T.contiguous(),
        f"decoder{kind}.bias": plain["b_dec"],
    }


def _json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def _tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in tensors.items()})
    else:
        torch.save(tensors, path)


_LAYER = re.compile(
    r"(?:blocks\.|resid_post_layer_|layer_|layer(?=\d+\.sae)|W_enc_|_L(?=\d+_)|-L(?=\d+[RAM]-)|/L(?=\d+R)|-l(?=\d+\.pt))(\d+)"
)


def layer_of_entry(entry: Registered) -> int:
    """The subject's layer that the id or the path of an entry names; 0 where neither does."""
    for text in (entry.path, entry.sae_id):
        if found := _LAYER.search(text):
            return int(found[1])
    return 0


def sae_lens(root: Path, entry: Registered) -> None:
    """`cfg.json` in the keys of its time, and `sae_weights.safetensors`."""
    hook = entry.sae_id if entry.sae_id.startswith("blocks") else f"blocks.{layer_of_entry(entry)}.hook_resid_post"
    hook = re.sub(r"(hook_[a-z_]*[a-z])_\d+.*", r"\1", hook)
    folder, tensors = root / entry.path, _plain()
    cfg: dict[str, Any] = {"d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu", "model_name": "m"}
    if "matryoshka" in entry.repository:  # of SAELens 6
        cfg |= {"architecture": "jumprelu", "apply_b_dec_to_input": True, "normalize_activations": "none"}
        cfg["metadata"] = {
            "sae_lens_version": "6.0.0",
            "model_name": "m",
            "hook_name": hook,
            "hook_head_index": None,
            "prepend_bos": True,
            "context_size": 1024,
            "model_from_pretrained_kwargs": {"center_writing_weights": False},
        }
        tensors["threshold"] = threshold()
    elif "OAI" in entry.repository:
        cfg |= {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
        cfg |= {"hook_name": hook, "hook_layer": layer_of_entry(entry), "hook_head_index": None, "prepend_bos": False}
        cfg |= {"normalize_activations": "layer_norm", "apply_b_dec_to_input": True, "context_size": 128}
        cfg |= {"finetuning_scaling_factor": False, "sae_lens_training_version": None}
    else:  # the oldest keys
        cfg |= {"hook_point": hook, "hook_point_layer": layer_of_entry(entry), "hook_point_head_index": None}
        cfg |= {"activation_fn": "relu", "prepend_bos": True, "context_size": 128, "normalize_activations": False}
        if entry.factor is not None:
            cfg["normalize_activations"] = "expected_average_only_in"
        tensors["scaling_factor"] = torch.ones(F)
    _json(folder / "cfg.json", cfg)
    _tensors(folder / "sae_weights.safetensors", tensors)


def connor_rob_hook_z(root: Path, entry: Registered) -> None:
    layer = layer_of_entry(entry)
    _json(
        root / entry.path.replace(".pt", "_cfg.json"),
        {"act_size": D, "dict_size": F, "act_name": f"blocks.{layer}.attn.hook_z"},
    )
    _tensors(root / entry.path, _plain())


def gemma_2(root: Path, entry: Registered) -> None:
    _tensors(root / entry.path / "params.npz", {**_plain(), "threshold": threshold()})


def gemma_3(root: Path, entry: Registered) -> None:
    path, layer = entry.path, layer_of_entry(entry)
    plain = _plain()
    tensors = {name.replace("W", "w"): value for name, value in plain.items()} | {"threshold": threshold()}
    block = f"model.layers.{layer}"
    reads, writes = f"{block}.output", None
    if "attn_out" in path:
        reads = f"{block}.self_attn.o_proj.input"
    elif "mlp_out" in path:
        reads = f"{block}.post_feedforward_layernorm.output"
    elif "transcoder" in path:
        reads, writes = f"{block}.pre_feedforward_layernorm.output", f"{block}.post_feedforward_layernorm.output"
    is_affine = path.endswith("affine")
    if is_affine:
        tensors["affine_skip_connection"] = tensor("skip", D, D)
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": reads, "width": F}
    if writes is not None:
        config |= {"hf_hook_point_out": writes, "affine_connection": is_affine}
    if "_all/" not in path or layer % 2:  # some folders have no configuration
        _json(root / path / "config.json", config)
    _tensors(root / path / "params.safetensors", tensors)


_LLAMA_SCOPE_PLACES = {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out"}


def llama_scope(root: Path, entry: Registered) -> None:
    layer, part = layer_of_entry(entry), re.findall(r"L\d+([RAM])-", entry.path)[0]
    hook = f"blocks.{layer}.{_LLAMA_SCOPE_PLACES[part]}"
    # As the registry has it: sqrt(d) over the average norm. The threshold is of the hidden state before that scale.
    factor = entry.factor or 1.0
    norm, threshold = D**0.5 / factor, 0.4 / factor
    config = {"d_model": D, "d_sae": F, "expansion_factor": F // D, "act_fn": "jumprelu"}
    config |= {"jump_relu_threshold": threshold}
    config |= {"hook_point_in": hook, "hook_point_out": hook, "norm_activation": "dataset-wise"}
    config |= {"dataset_average_activation_norm": {"in": norm, "out": norm}, "use_decoder_bias": True}
    _json(root / entry.path / "hyperparams.json", config)
    _tensors(root / entry.path / "checkpoints" / "final.safetensors", _linear())


def llama_scope_r1_distill(root: Path, entry: Registered) -> None:
    layer = layer_of_entry(entry)
    hook = f"blocks.{layer}.hook_resid_post"
    config = {"d_model": D, "expansion_factor": F // D, "hook_point_in": hook, "hook_point_out": hook}
    config |= {"act_fn": "jumprelu", "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
    _json(root / entry.path / "config.json", config)
    _tensors(root / entry.path / "sae_weights.safetensors", {**_linear(), "log_jumprelu_threshold": threshold().log()})


DICTIONARY_CLASSES = (
    "AutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "MatryoshkaBatchTopKSAE",
)


def dictionary_class(entry: Registered) -> str:
    """The class of an SAE, as its release or path names it."""
    name = f"{entry.release} {entry.repository} {entry.path}".lower().replace("_", "")
    named = {
        "matryoshka": "MatryoshkaBatchTopKSAE",
        "batchtopk": "BatchTopKSAE",
        "jumprelu": "JumpReluAutoEncoder",
        "gated": "GatedAutoEncoder",
        "topk": "AutoEncoderTopK",
        "andyrdt": "BatchTopKSAE",
    }
    return next((kind for word, kind in named.items() if word in name), "AutoEncoder")


def dictionary_learning_1(root: Path, entry: Registered) -> None:
    kind = dictionary_class(entry)
    layer = layer_of_entry(entry)
    trainer: dict[str, Any] = {
        "dict_class": kind,
        "activation_dim": D,
        "dict_size": F,
        "layer": layer,
        "lm_name": "a/b",
    }
    trainer["submodule_name"] = f"resid_post_layer_{layer}"
    plain, linear = _plain(), _linear()
    # Classes keep decoder rows of norm 1 while they train.
    unit = plain["W_dec"] / plain["W_dec"].norm(dim=1, keepdim=True)
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        tensors = {**plain, "W_dec": unit}
    else:
        tensors = {"encoder.weight": linear["encoder.weight"], "decoder.weight": unit.T.contiguous()}
        tensors["bias" if kind == "AutoEncoder" else "b_dec"] = plain["b_dec"]
        if kind != "GatedAutoEncoder":
            tensors["encoder.bias"] = plain["b_enc"]
    if kind == "AutoEncoderTopK":
        trainer["k"] = 4
        tensors["k"] = torch.tensor(4)
    elif kind == "JumpReluAutoEncoder":
        tensors["threshold"] = threshold()
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        trainer["k"] = 4
        tensors |= {"k": torch.tensor(4), "threshold": torch.tensor(0.6)}
        if kind == "MatryoshkaBatchTopKSAE":
            tensors["group_sizes"] = torch.tensor([F // 2, F // 2])
    elif kind == "GatedAutoEncoder":
        tensors = {name: value for name, value in tensors.items() if name != "b_dec"}
        tensors |= {"decoder_bias": plain["b_dec"], "r_mag": tensor("b_mag_scale", F)}
        tensors |= {"gate_bias": plain["b_enc"], "mag_bias": tensor("b_mag", F)}
    _json(root / entry.path / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})
    _tensors(root / entry.path / "ae.pt", tensors)


def deepseek_r1(root: Path, entry: Registered) -> None:
    _tensors(root / entry.path, _linear())


def goodfire(root: Path, entry: Registered) -> None:
    _tensors(root / entry.path, _linear("_linear"))


def qwen_scope(root: Path, entry: Registered) -> None:
    plain = _plain()
    tensors = {"W_enc": plain["W_enc"].T.contiguous(), "W_dec": plain["W_dec"].T.contiguous()}
    _tensors(root / entry.path, {**tensors, "b_enc": plain["b_enc"], "b_dec": plain["b_dec"]})


def sparsify(root: Path, entry: Registered) -> None:
    plain = _plain()
    _json(root / entry.path / "cfg.json", {"activation": "topk", "d_in": D, "num_latents": F, "k": 4, "signed": False})
    tensors = {"encoder.weight": plain["W_enc"].T.contiguous(), "encoder.bias": plain["b_enc"]}
    _tensors(root / entry.path / "sae.safetensors", {**tensors, "W_dec": plain["W_dec"], "b_dec": plain["b_dec"]})


def mwhanna_transcoder(root: Path, entry: Registered) -> None:
    if "14b" not in entry.repository:  # which has no configuration
        hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\nscan: x\n"
        (root / "config.yaml").write_text(f"model_kind: transcoder_set\nmodel_name: Qwen/Qwen3-4B\n{hooks}")
    (root / "wandb-config.yaml").write_text(
        f"d_model:\n  value: {D}\nd_feature:\n  value: {F}\nbatch_size:\n  value: 64\n"
    )
    plain = _plain()
    _tensors(root / entry.path, {**plain, "W_enc": plain["W_enc"].T.contiguous()})


def mntss_clt_layer_transcoder(root: Path, entry: Registered) -> None:
    layer = layer_of_entry(entry)
    hooks = "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\nscan: x\n"
    (root / "config.yaml").write_text(f"model_kind: cross_layer_transcoder\nmodel_name: google/gemma-2-2b\n{hooks}")
    plain = _plain()
    encoder = {"W_enc": plain["W_enc"].T.contiguous(), "b_enc": plain["b_enc"], "b_dec": plain["b_dec"]}
    _tensors(root / entry.path, {f"{name}_{layer}": value for name, value in encoder.items()})
    decoder = {f"W_dec_{layer}": tensor("decoders", F, PLACES, D)}
    _tensors(root / f"W_dec_{layer}.safetensors", decoder)


def temporal(root: Path, entry: Registered) -> None:
    sae = f"exp_factor: {F // D}\n  n_heads: 2\n  n_attn_layers: 1\n  bottleneck_factor: 2\n  sae_diff_type: topk\n"
    sae += "  kval_topk: 4\n  tied_weights: true\n  scaling_factor: 0.5\n"
    path = root / entry.path
    path.mkdir(parents=True, exist_ok=True)
    (path / "conf.yaml").write_text(f"llm:\n  dimin: {D}\nsae:\n  {sae}data:\n  dtype: float32\n")
    _tensors(
        path / "latest_ckpt.safetensors",
        {"D": tensor("decoder", F, D), "b": tensor("b_dec", D), "attn_layers.0.q_target.bias": tensor("b_q", D)},
    )


WRITERS: dict[str | None, Callable[[Path, Registered], None]] = {
    None: sae_lens,
    "connor_rob_hook_z": connor_rob_hook_z,
    "gemma_2": gemma_2,
    "gemma_2_transcoder": gemma_2,
    "gemma_3": gemma_3,
    "llama_scope": llama_scope,
    "llama_scope_r1_distill": llama_scope_r1_distill,
    "dictionary_learning_1": dictionary_learning_1,
    "deepseek_r1": deepseek_r1,
    "qwen_scope": qwen_scope,
    "sparsify": sparsify,
    "mwhanna_transcoder": mwhanna_transcoder,
    "mntss_clt_layer_transcoder": mntss_clt_layer_transcoder,
    "temporal": temporal,
    "goodfire": goodfire,
}


def kind_of(entry: Registered) -> str:
    """Name what decides how an entry's files look: entries of one kind hold the same tensors."""
    path, name = entry.path, entry.converter or "sae_lens"
    if entry.converter is None:
        hook = re.search(r"hook_(?:resid_pre|resid_mid|resid_post|attn_out|mlp_out)", entry.sae_id)
        return f"{name} {entry.release} {hook[0] if hook else ''}".rstrip()
    if entry.converter == "gemma_2":
        return f"{name} {'embedding' if 'embedding' in path else entry.repository.rpartition('-')[2]}"
    if entry.converter == "gemma_3":
        place = path.partition("/")[0].removesuffix("_all")
        return f"{name} {place}{' affine' if path.endswith('affine') else ''}"
    if entry.converter == "dictionary_learning_1":
        return f"{name} {dictionary_class(entry)}"
    if entry.converter == "qwen_scope":
        return f"{name} {re.findall(r'L0_[0-9]+', entry.repository)[0]}"
    if entry.converter == "llama_scope":
        return f"{name} {re.findall(r'-LX([RAM])-', entry.repository)[0]}"
    return name


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write(cache: Path, entry: Registered) -> Path:
    """Write the files of an entry into a hub's cache, as if they had been downloaded; return the repository's folder."""
    repository = cache / f"models--{entry.repository.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    root = repository / "snapshots" / COMMIT
    root.mkdir(parents=True, exist_ok=True)
    WRITERS[entry.converter](root, entry)
    return root
