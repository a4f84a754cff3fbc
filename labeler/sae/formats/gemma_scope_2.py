"""Gemma Scope 2 (2025): `params.safetensors` and `config.json` with module paths; SAEs, transcoders, CLTs, crosscoders."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from labeler.errors import FormatError
from labeler.published import places
from labeler.sae.sae import SAE, Part, Selection
from labeler.sae.weights import Weights

NAME = "gemma_scope_2"
_PART = re.compile(r"params_layer_(\d+)\.safetensors")


def recognizes(weights: Weights) -> bool:
    return weights.path.suffix == ".safetensors" and weights.has("w_enc", "w_dec", "threshold")


def read(weights: Weights) -> SAE:
    found = weights.config("config.json")
    config = found or {}
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise FormatError(
            f"SAE {weights.path}: architecture {config['architecture']!r} is not supported; known is jump_relu"
        )
    w_enc = weights.take_matrix("w_enc").T
    w_skip = weights.take_if_there("affine_skip_connection")
    if found is not None and bool(config.get("affine_connection")) != (w_skip is not None):
        raise FormatError(
            f"SAE {weights.path}: config.json says affine_connection: {config.get('affine_connection', False)}, and the file "
            f"{'has' if w_skip is not None else 'has no'} affine_skip_connection"
        )
    sae = SAE(
        w_enc,
        weights.take("b_enc"),
        weights.take_matrix("w_dec"),
        weights.take("b_dec"),
        Selection("threshold", threshold=weights.take("threshold")),
        "jumprelu",
        weights.finish(NAME),
        w_skip=None if w_skip is None else w_skip.T,
        prepend_bos=True,
        remarks=weights.remarks,
    )
    if layer_in_set(weights) is not None:
        return _layer_of_set(weights, config, sae)
    reads, writes = places.gemma_scope_2(weights.origin, config)
    is_transcoder = writes is not None or w_skip is not None
    return replace(sae, hookpoint=reads, output_hookpoint=writes, is_transcoder=is_transcoder)


def layer_in_set(weights: Weights) -> int | None:
    """Return the number N of `params_layer_N.safetensors`, a file of a CLT or a crosscoder."""
    match = _PART.fullmatch(weights.path.name)
    return None if match is None else int(match[1])


def _layer_of_set(weights: Weights, config: dict[str, Any], sae: SAE) -> SAE:
    """Complete one layer of a CLT or a crosscoder: its features read this layer and write to several.

    A CLT has a decoder for every layer, of which those of earlier layers are not used; a crosscoder uses all.
    """
    number = layer_in_set(weights)
    assert number is not None
    if sae.w_dec.ndim != 3 or number >= sae.w_dec.shape[1]:
        raise FormatError(
            f"SAE {weights.path}: w_dec has shape {tuple(sae.w_dec.shape)}, expected [F, layers, d] with layer {number} among them"
        )
    n_layers, is_clt = int(sae.w_dec.shape[1]), places.is_gemma_scope_2_clt(weights.origin, config)
    layers = _layers(weights, config, n_layers, is_clt)
    first = number if is_clt else 0
    reads, writes = (places.gemma_scope_2_template(config, side, is_clt) for side in ("in", "out"))
    written = layers[first:]
    b_dec = torch.zeros(len(written), sae.w_dec.shape[2])
    b_dec[number - first] = sae.b_dec if sae.b_dec.ndim == 1 else sae.b_dec[number]
    return replace(
        sae,
        w_dec=sae.w_dec.flatten(1)[:, first * sae.w_dec.shape[2] :],
        b_dec=b_dec.flatten(),
        is_transcoder=is_clt,
        hookpoint=_at(reads, layers[number]),
        output_hookpoint=_at(writes, layers[number]) if is_clt else None,
        writes=tuple(_at(writes if is_clt else reads, layer) for layer in written),
        part=Part(weights.path.parent, layers[number], written, layers[: number + 1] if is_clt else layers),
        remarks=weights.remarks,
    )


def _layers(weights: Weights, config: dict[str, Any], n_layers: int, is_clt: bool) -> tuple[int, ...]:
    """Return the subject's layers, in the order of the files: from the configuration, else from the folder's name."""
    for layers in places.stated_layers(config, weights.origin.rpartition("/")[0]):
        if len(layers) == n_layers and list(layers) == sorted(set(layers)):
            return layers
    if is_clt:
        return tuple(range(n_layers))
    raise FormatError(
        f"SAE {weights.path}: neither config.json nor the folder's name says which {n_layers} layers this crosscoder reads; "
        "expected a folder such as crosscoder/layer_7_13_17_22_width_65k_l0_medium"
    )


def _at(template: str, layer: int) -> str:
    return template.replace("{}", str(layer))
