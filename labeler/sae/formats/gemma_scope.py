"""Gemma Scope (Lieberum et al. 2024): `params.npz`, JumpReLU, input not centered; the place stands in the path."""

from __future__ import annotations

import math

from labeler.errors import FormatError
from labeler.published import places
from labeler.sae.matrices import over, times
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "gemma_scope"


def recognizes(weights: Weights) -> bool:
    return weights.path.suffix == ".npz" and "threshold" in weights.names


def read(weights: Weights) -> SAE:
    w_enc, w_dec = weights.take_matrix("W_enc", "w_enc").T, weights.take_matrix("W_dec", "w_dec")
    b_enc, b_dec = weights.take("b_enc"), weights.take("b_dec")
    threshold = weights.take("threshold")
    if "scaling_factor" in weights.names and not bool((weights.take("scaling_factor") == 1).all()):
        raise FormatError(f"SAE {weights.path}: scaling_factor is not 1, which changes what a feature is")
    reads, writes = places.gemma_scope(weights.origin)
    if "embedding" in weights.origin:
        # Trained on embeddings times sqrt(d), which is what transformers' scaled embedding module gives.
        root = math.sqrt(w_enc.shape[1])
        w_enc, w_dec = over(w_enc, root), times(w_dec, root)
    return SAE(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        Selection("threshold", threshold=threshold),
        "jumprelu",
        weights.finish(NAME),
        hookpoint=reads,
        output_hookpoint=writes,
        is_transcoder=writes is not None,
        prepend_bos=True,
        remarks=weights.remarks,
    )
