"""circuit-tracer's cross-layer transcoders: `W_enc_N.safetensors` and `W_dec_N.safetensors`, read one layer at a time."""

from __future__ import annotations

import re

from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "cross_layer"
_NAME = re.compile(r"W_enc_(\d+)\.safetensors")


def recognizes(weights: Weights) -> bool:
    match = _NAME.fullmatch(weights.path.name)
    return match is not None and f"W_enc_{match[1]}" in weights.names


def read(weights: Weights) -> SAE:
    match = _NAME.fullmatch(weights.path.name)
    assert match is not None
    layer = match[1]
    decoders = Weights(weights.path.with_name(f"W_dec_{layer}.safetensors"))
    w_dec = decoders.take(f"W_dec_{layer}")  # [F, layers - N, d]: to its own layer and all later ones
    weights.remark(f"a feature writes to {w_dec.shape[1]} layers: its decoder directions are added up")
    hooks = weights.config("config.yaml") or {"feature_input_hook": "hook_resid_mid"}
    threshold = weights.take_if_there(f"threshold_{layer}")
    selection = Selection("relu") if threshold is None else Selection("threshold", threshold=threshold.squeeze())
    return SAE(
        weights.take(f"W_enc_{layer}"), weights.take(f"b_enc_{layer}"), w_dec.sum(dim=1), weights.take(f"b_dec_{layer}"),
        selection, "relu" if threshold is None else "jumprelu", weights.finish(NAME),
        hookpoint=f"blocks.{layer}.{hooks['feature_input_hook']}", is_transcoder=True, prepend_bos=True,
        remarks=weights.remarks,
    )  # fmt: skip
