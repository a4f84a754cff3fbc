"""The planted SAE in every format that is read: its features mean what tests/planted.py says, whoever wrote the file.

Each writer below follows the layout of one library (tensor names, orientation, configuration) and is given the same
weights; what an architecture needs beyond them is chosen so that it changes nothing of what features fire on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.planted import D_MODEL, HOOKPOINT, N_FEATURES

MLP = "gpt_neox.layers.0.mlp"


@dataclass(frozen=True)
class Weights:
    """As they are multiplied: encoder [d, F], decoder [F, d]."""

    encoder: Tensor
    decoder: Tensor

    @classmethod
    def of(cls, planted_sae: Path) -> Weights:
        tensors = load_file(planted_sae / "sae_weights.safetensors")
        return cls(tensors["W_enc"], tensors["W_dec"])


@dataclass(frozen=True)
class Format:
    """One way of writing an SAE, and what `load_sae` should say of it."""

    name: str
    format: str
    architecture: str
    write: Callable[[Path, Weights], Path]  # returns what a user gives as --sae
    hookpoint: str | None = HOOKPOINT  # None: the file says it

    def __str__(self) -> str:
        return self.name


def saelens(name: str, architecture: str, **cfg: object) -> Format:
    """SAELens: cfg.json and sae_weights.safetensors."""

    def write(folder: Path, w: Weights) -> Path:
        folder.mkdir(parents=True)
        tensors = {
            "W_enc": w.encoder,
            "W_dec": w.decoder,
            "b_dec": torch.zeros(D_MODEL),
            "b_enc": torch.zeros(N_FEATURES),
        }
        if "jumprelu" in architecture:
            tensors["threshold"] = torch.full((N_FEATURES,), 0.1)
        if "skip" in architecture:
            tensors["W_skip"] = torch.eye(D_MODEL) / 2
        if architecture == "gated":
            del tensors["b_enc"]
            tensors |= {n: torch.zeros(N_FEATURES) for n in ("b_gate", "r_mag", "b_mag")}
        save_file(tensors, folder / "sae_weights.safetensors")
        metadata = {"hook_name": HOOKPOINT} | ({"hook_name_out": MLP} if "transcoder" in architecture else {})
        values = {
            "architecture": architecture,
            "d_in": D_MODEL,
            "d_sae": N_FEATURES,
            "apply_b_dec_to_input": "transcoder" not in architecture,
            "normalize_activations": "none",
            "metadata": metadata,
            **cfg,
        }
        (folder / "cfg.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
        return folder

    read_as = "topk" if cfg.get("activation_fn_str") == "topk" else architecture
    return Format(f"saelens-{name}", "saelens", read_as, write, None)


def sparsify(name: str, activation: str, *, transcode: bool = False, skip: bool = False) -> Format:
    """EleutherAI sparsify: a folder called after the hookpoint. Its transcoders read their module's input."""

    def write(folder: Path, w: Weights) -> Path:
        below = folder / (MLP if transcode or skip else HOOKPOINT)
        below.mkdir(parents=True)
        tensors = {
            "encoder.weight": w.encoder.T.contiguous(),
            "encoder.bias": torch.zeros(N_FEATURES),
            "W_dec": w.decoder,
            "b_dec": torch.zeros(D_MODEL),
        }
        if skip:
            tensors["W_skip"] = torch.eye(D_MODEL) / 2
        save_file(tensors, below / "sae.safetensors")
        cfg = {"activation": activation, "k": 4, "num_latents": N_FEATURES, "d_in": D_MODEL, "transcode": transcode}
        (below / "cfg.json").write_text(json.dumps(cfg | {"skip_connection": skip}))
        return folder

    return Format(f"sparsify-{name}", "sparsify", activation, write, None)


def dictionary_learning(kind: str) -> Format:
    """dictionary_learning: ae.pt, and config.json that names the class."""

    def write(folder: Path, w: Weights) -> Path:
        folder.mkdir(parents=True)
        zeros = torch.zeros(N_FEATURES)
        linear = {"encoder.weight": w.encoder.T, "decoder.weight": w.decoder.T}
        matrices = {"W_enc": w.encoder, "W_dec": w.decoder, "b_enc": zeros, "b_dec": torch.zeros(D_MODEL)}
        tensors = {
            "AutoEncoder": linear | {"encoder.bias": zeros, "bias": torch.zeros(D_MODEL)},
            "AutoEncoderNew": linear | {"encoder.bias": zeros, "decoder.bias": torch.zeros(D_MODEL)},
            "GatedAutoEncoder": linear
            | {"decoder_bias": torch.zeros(D_MODEL), "r_mag": zeros, "mag_bias": zeros, "gate_bias": zeros},
            "AutoEncoderTopK": linear | {"encoder.bias": zeros, "b_dec": torch.zeros(D_MODEL), "k": torch.tensor(4)},
            "BatchTopKSAE": linear
            | {
                "encoder.bias": zeros,
                "b_dec": torch.zeros(D_MODEL),
                "k": torch.tensor(4),
                "threshold": torch.tensor(0.1),
            },
            "JumpReluAutoEncoder": matrices | {"threshold": torch.full((N_FEATURES,), 0.1)},
            "MatryoshkaBatchTopKSAE": matrices | {"k": torch.tensor(4), "threshold": torch.tensor(0.1)},
        }[kind]
        torch.save({name: t.contiguous() for name, t in tensors.items()}, folder / "ae.pt")
        trainer = {"dict_class": kind, "layer": 0, "submodule_name": HOOKPOINT}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        return folder

    return Format(f"dictionary_learning-{kind}", "dictionary_learning", kind, write, None)


def _gemma_scope(folder: Path, w: Weights) -> Path:
    folder.mkdir(parents=True)
    np.savez(
        folder / "params.npz",
        W_enc=w.encoder.numpy(),
        W_dec=w.decoder.numpy(),
        b_enc=np.zeros(N_FEATURES, np.float32),
        b_dec=np.zeros(D_MODEL, np.float32),
        threshold=np.full(N_FEATURES, 0.1, np.float32),
    )
    return folder


def openai(activation: str) -> Format:
    """OpenAI sparse_autoencoder: one .pt file."""

    def write(folder: Path, w: Weights) -> Path:
        folder.mkdir(parents=True)
        tensors = {
            "encoder.weight": w.encoder.T.contiguous(),
            "decoder.weight": w.decoder.T.contiguous(),
            "latent_bias": torch.zeros(N_FEATURES),
            "pre_bias": torch.zeros(D_MODEL),
            "activation": activation,
        }
        state = {"activation_state_dict": {"k": 4}} if activation == "TopK" else {}
        torch.save(tensors | state, folder / "0.pt")
        return folder / "0.pt"

    return Format(f"openai-{activation}", "openai", activation, write)


FORMATS = (
    saelens("standard", "standard"),
    saelens("no-b_dec-in-input", "standard", apply_b_dec_to_input=False),
    saelens("layer_norm", "standard", normalize_activations="layer_norm"),
    saelens("constant_norm", "standard", normalize_activations="constant_norm_rescale"),
    saelens("older-topk", "standard", activation_fn_str="topk", activation_fn_kwargs={"k": 4}),
    saelens("topk", "topk", k=4),
    saelens("topk-rescaled", "topk", k=4, rescale_acts_by_decoder_norm=True),
    saelens("abstopk", "abstopk", k=4),
    saelens("jumprelu", "jumprelu"),
    saelens("gated", "gated"),
    saelens("transcoder", "transcoder"),
    saelens("skip_transcoder", "skip_transcoder"),
    saelens("topk_transcoder", "topk_transcoder", k=4),
    saelens("jumprelu_transcoder", "jumprelu_transcoder"),
    saelens("jumprelu_skip_transcoder", "jumprelu_skip_transcoder"),
    sparsify("topk", "topk"),
    sparsify("groupmax", "groupmax"),
    sparsify("skip", "topk", skip=True),
    sparsify("transcode", "topk", transcode=True),
    sparsify("transcode-skip", "groupmax", transcode=True, skip=True),
    *map(
        dictionary_learning,
        (
            "AutoEncoder",
            "AutoEncoderNew",
            "GatedAutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "JumpReluAutoEncoder",
            "MatryoshkaBatchTopKSAE",
        ),
    ),
    Format("gemma_scope", "gemma_scope", "jumprelu", _gemma_scope),
    openai("ReLU"),
    openai("TopK"),
)
