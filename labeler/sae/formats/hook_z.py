"""Attention SAEs of Kissane et al. 2024 (GPT-2): `NAME.pt` and `NAME_cfg.json`; ReLU on the concatenated heads, centered."""

from __future__ import annotations

from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "hook_z"


def recognizes(weights: Weights) -> bool:
    return weights.path.suffix == ".pt" and _beside(weights) is not None and weights.has("W_enc", "W_dec")


def _beside(weights: Weights) -> dict[str, object] | None:
    return weights.config(f"{weights.path.stem}_cfg.json")


def read(weights: Weights) -> SAE:
    config = _beside(weights) or {}
    weights.remark(
        "the files do not say how TransformerLens loaded the subject: its default takes the value biases out of hook_z, and the "
        "hidden states read here hold them"
    )
    return SAE(
        weights.take_matrix("W_enc").T,
        weights.take("b_enc"),
        weights.take_matrix("W_dec"),
        weights.take("b_dec"),
        Selection("relu"),
        "relu",
        weights.finish(NAME),
        centred=True,
        prepend_bos=True,
        hookpoint=str(config["act_name"]) if "act_name" in config else None,
        remarks=weights.remarks,
    )
