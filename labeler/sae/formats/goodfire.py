"""Goodfire's Llama SAEs: one `.pth` or `.pt` file with two linear layers; ReLU on the residual stream."""

from __future__ import annotations

from labeler.sae.places_in_names import layer_of
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "goodfire"


def recognizes(weights: Weights) -> bool:
    return weights.has("encoder_linear.weight", "decoder_linear.weight")


def read(weights: Weights) -> SAE:
    layer = layer_of(weights.path.stem)
    return SAE(
        weights.take_matrix("encoder_linear.weight"),
        weights.take("encoder_linear.bias"),
        weights.take_matrix("decoder_linear.weight").T,
        weights.take("decoder_linear.bias"),
        Selection("relu"),
        "relu",
        weights.finish(NAME),
        hookpoint=None if layer is None else f"blocks.{layer}.hook_resid_post",
        remarks=weights.remarks,
    )
