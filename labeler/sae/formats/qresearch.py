"""qresearch's DeepSeek-R1 SAE: one `.pt` file with two linear layers; ReLU on the residual stream, not centered."""

from __future__ import annotations

from labeler.published import places
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "qresearch"


def recognizes(weights: Weights) -> bool:
    plain = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    return weights.path.suffix in (".pt", ".pth") and weights.names == plain


def read(weights: Weights) -> SAE:
    return SAE(
        weights.take_matrix("encoder.weight"),
        weights.take("encoder.bias"),
        weights.take_matrix("decoder.weight").T,
        weights.take("decoder.bias"),
        Selection("relu"),
        "relu",
        weights.finish(NAME),
        hookpoint=places.residual(weights.path.stem),
        remarks=weights.remarks,
    )
