"""circuit-tracer's cross-layer transcoders (CLTs): `W_enc_N.safetensors` and `W_dec_N.safetensors` for each layer N.

A feature of layer N reads its own layer and writes to this and all later ones: `W_dec_N` is [F, layers - N, d].
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

from labeler.errors import FormatError, NotFoundError
from labeler.published import places
from labeler.sae.files import sha256_of
from labeler.sae.formats.circuit_tracer import scan_of
from labeler.sae.sae import SAE, Part, Selection, Source
from labeler.sae.weights import Weights

NAME = "cross_layer"
_NAME = re.compile(r"W_enc_(\d+)\.safetensors")


def recognizes(weights: Weights) -> bool:
    layer = layer_in_set(weights)
    return layer is not None and f"W_enc_{layer}" in weights.names


def layer_in_set(weights: Weights) -> int | None:
    match = _NAME.fullmatch(weights.path.name)
    return None if match is None else int(match[1])


def read(weights: Weights) -> SAE:
    layer = layer_in_set(weights)
    assert layer is not None
    config = _config(weights)
    decoders = Weights(weights.path.with_name(f"W_dec_{layer}.safetensors"))
    if not decoders.path.is_file():
        raise NotFoundError(f"SAE {weights.path}: its decoders are missing: {decoders.path.name} should lie beside it")
    w_dec = decoders.take_matrix(f"W_dec_{layer}")
    if w_dec.ndim != 3:
        raise FormatError(f"SAE {decoders.path}: W_dec_{layer} has shape {tuple(w_dec.shape)}, expected [F, layers, d]")
    layers = tuple(range(layer, layer + w_dec.shape[1]))
    reads, writes = places.circuit_tracer(layer, config)
    threshold = weights.take_if_there(f"threshold_{layer}")
    selection = Selection("relu") if threshold is None else Selection("threshold", threshold=threshold.squeeze())
    own_bias = weights.take(f"b_dec_{layer}")
    b_dec = own_bias.new_zeros(w_dec.shape[1:])
    b_dec[0] = own_bias
    return SAE(
        weights.take_matrix(f"W_enc_{layer}"),
        weights.take(f"b_enc_{layer}"),
        w_dec.flatten(1),
        b_dec.flatten(),
        selection,
        "relu" if threshold is None else "jumprelu",
        _source(weights, decoders),
        hookpoint=reads,
        output_hookpoint=writes,
        writes=tuple(f"blocks.{n}.{config['feature_output_hook']}" for n in layers),
        part=Part(weights.path.parent, layer, layers, tuple(range(layer + 1))),
        is_transcoder=True,
        prepend_bos=True,
        scan=scan_of(config),
        remarks=weights.remarks,
    )


def _config(weights: Weights) -> dict[str, Any]:
    config = weights.config("config.yaml") or {}
    kind = config.get("model_kind", "cross_layer_transcoder")
    if kind != "cross_layer_transcoder":
        raise FormatError(f"SAE {weights.path}: config.yaml says model_kind {kind!r}, not a cross_layer_transcoder")
    if missing := [hook for hook in places.CLT_HOOKS if hook not in config]:
        weights.remark(f"no config.yaml says {' and '.join(missing)}: taken to be as of the published CLTs")
    return {**places.CLT_HOOKS, **config}


def _source(weights: Weights, decoders: Weights) -> Source:
    """Refuse tensors that were not taken; the hash covers the encoders' file and the decoders'."""
    encoded = weights.finish(NAME)
    decoders.finish(NAME)
    both = hashlib.sha256(f"{encoded.sha256}{sha256_of(decoders.path)}".encode()).hexdigest()
    return replace(encoded, sha256=both)
