"""Gemma Scope 2 (2025): `params.safetensors` and `config.json` with module paths; SAEs, transcoders, CLTs, crosscoders."""

from __future__ import annotations

import re
from typing import Any

from labeler.errors import FormatError
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights, layer_of

NAME = "gemma_scope_2"


def recognizes(weights: Weights) -> bool:
    return weights.path.suffix == ".safetensors" and weights.has("w_enc", "w_dec", "threshold")


def read(weights: Weights) -> SAE:
    config = weights.config("config.json") or {}
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise FormatError(
            f"SAE {weights.path}: architecture {config['architecture']!r} is not supported; known is jump_relu"
        )
    w_enc, w_dec = weights.take("w_enc").T.contiguous(), weights.take("w_dec")
    w_skip = weights.take_if_there("affine_skip_connection")
    if bool(config.get("affine_connection")) != (w_skip is not None):
        raise FormatError(
            f"SAE {weights.path}: config.json says affine_connection: {config.get('affine_connection', False)}, and the file "
            f"{'has' if w_skip is not None else 'has no'} affine_skip_connection"
        )
    reads, writes = _places(weights, config)
    if w_dec.ndim == 3:
        # A feature reads one layer and writes to several: its directions are added up, which tells firing, not writing.
        n_layers = int(w_dec.shape[1])
        w_dec, writes = w_dec.sum(dim=1), None
        weights.remark(f"a feature writes to {n_layers} layers: its decoder directions are added up")
    b_enc, b_dec, threshold = weights.take("b_enc"), weights.take("b_dec"), weights.take("threshold")
    if b_dec.ndim == 2:
        b_dec = b_dec.sum(dim=0)
    transcodes = writes is not None or w_skip is not None or bool(weights.remarks)
    return SAE(
        w_enc, b_enc, w_dec, b_dec, Selection("threshold", threshold=threshold), "jumprelu", weights.finish(NAME),
        w_skip=None if w_skip is None else w_skip.T.contiguous(),
        hookpoint=reads, output_hookpoint=writes if writes != reads else None, is_transcoder=transcodes,
        prepend_bos=True, remarks=weights.remarks,
    )  # fmt: skip


def _places(weights: Weights, config: dict[str, Any]) -> tuple[str | None, str | None]:
    reads, writes = (spelled(config.get(f"hf_hook_point_{side}")) for side in ("in", "out"))
    layer = layer_of(weights.path.name) if "params_layer" in weights.path.name else None
    if reads is not None and layer is not None and "{" in reads:
        reads = re.sub(r"\{[^}]*\}", str(layer), reads)
    if reads is None:
        reads, writes = _from_path(weights.origin)
    return reads, writes if writes != reads and "{" not in (writes or "") else None


def _from_path(origin: str) -> tuple[str | None, str | None]:
    """The place as the path names it, where there is no configuration."""
    layer = layer_of(origin)
    if "gemma-scope-2" not in origin or layer is None:
        return None, None
    block = f"model.layers.{layer}"
    if "transcoder" in origin or "/clt" in origin:
        return f"{block}.pre_feedforward_layernorm:output", f"{block}.post_feedforward_layernorm:output"
    places = {
        "resid_post": f"{block}:output",
        "attn_out": f"{block}.self_attn.o_proj:input",
        "mlp_out": f"{block}.post_feedforward_layernorm:output",
    }
    return next((place for name, place in places.items() if name in origin), None), None


def spelled(name: Any) -> str | None:
    """`model.layers.3.output` as `model.layers.3:output`; a bare module path is its output."""
    if not name:
        return None
    text = str(name)
    for side in ("input", "output"):
        if text.endswith(f".{side}"):
            return f"{text.removesuffix(f'.{side}')}:{side}"
    return f"{text}:output"
