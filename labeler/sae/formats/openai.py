"""OpenAI sparse_autoencoder: `<n>.pt`, ReLU, or TopK with layer norm on the input (Gao et al. 2024)."""

from __future__ import annotations

from labeler.errors import FormatError
from labeler.sae.files import positive_int
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "openai"


def recognizes(weights: Weights) -> bool:
    return weights.has("pre_bias", "latent_bias")


def read(weights: Weights) -> SAE:
    path, tensors = weights.path, weights.tensors
    activation, state = tensors.get("activation", "ReLU"), tensors.get("activation_state_dict") or {}
    if activation not in ("ReLU", "TopK"):
        raise FormatError(f"SAE {path}: activation {activation!r} is not supported; known are ReLU, TopK")
    if state.get("postact_fn", "ReLU") != "ReLU":
        raise FormatError(f"SAE {path}: postact_fn {state['postact_fn']!r} is not supported; known is ReLU")
    # Counters of the training run beside the weights.
    weights.ignore(
        "activation",
        "activation_state_dict",
        "stats_last_nonzero",
        "latents_activation_frequency",
        "latents_mean_square",
    )
    w_enc = weights.take_matrix("encoder.weight")
    # Tied SAEs store the encoder alone.
    w_dec = weights.take_matrix("decoder.weight").T if "decoder.weight" in weights.names else w_enc
    selection = (
        Selection("topk", k=positive_int(state.get("k"), "k", path)) if activation == "TopK" else Selection("relu")
    )
    return SAE(
        w_enc,
        weights.take("latent_bias"),
        w_dec,
        weights.take("pre_bias"),
        selection,
        str(activation),
        weights.finish(NAME),
        centred=True,
        normalisation="layer_norm" if activation == "TopK" else "none",
        remarks=weights.remarks,
    )
