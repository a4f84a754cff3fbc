"""Temporal SAEs are refused by name: their code of a token depends on the tokens before it."""

from __future__ import annotations

from labeler.errors import FormatError
from labeler.sae.sae import SAE
from labeler.sae.weights import Weights

NAME = "temporal"


def recognizes(weights: Weights) -> bool:
    return weights.path.suffix == ".safetensors" and any(name.startswith("attn_layers.") for name in weights.names)


def read(weights: Weights) -> SAE:
    raise FormatError(
        f"SAE {weights.path}: a temporal SAE, whose code of a token attends to the tokens before it; `labeler` reads SAEs that "
        "encode each token by itself"
    )
