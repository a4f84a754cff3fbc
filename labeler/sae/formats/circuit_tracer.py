"""circuit-tracer's transcoder sets: `config.yaml` and one `layer_N.safetensors` per layer; ReLU or JumpReLU."""

from __future__ import annotations

from typing import Any

from labeler.errors import FormatError
from labeler.published import places
from labeler.published.names import layer_of
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "circuit_tracer"
_THRESHOLD = "activation_function.threshold"


def recognizes(weights: Weights) -> bool:
    named = weights.path.name.startswith("layer_") and weights.path.suffix == ".safetensors"
    return named and weights.has("W_enc", "W_dec", "b_enc", "b_dec")


def layer_in_set(weights: Weights) -> int | None:
    return layer_of(weights.path.name)


def scan_of(config: dict[str, Any]) -> str | None:
    """Return the name by which circuit-tracer's graphs know a set, where its configuration gives one."""
    scan = config.get("scan")
    return scan if isinstance(scan, str) and scan else None


def read(weights: Weights) -> SAE:
    config = weights.config("config.yaml")
    if config is not None and config.get("model_kind", "transcoder_set") != "transcoder_set":
        raise FormatError(
            f"SAE {weights.path}: config.yaml says model_kind {config['model_kind']!r}, not a transcoder_set"
        )
    layer = layer_of(weights.path.name)
    hooks = config or places.SET_HOOKS
    reads, writes = places.circuit_tracer(layer, hooks)
    if config is None:
        weights.remark("no config.yaml says where it reads: taken to be mlp.hook_in, as of the other sets of this kind")
    threshold = weights.take_if_there(_THRESHOLD)
    selection = Selection("relu") if threshold is None else Selection("threshold", threshold=threshold.squeeze())
    return SAE(
        weights.take_matrix("W_enc"),
        weights.take("b_enc"),
        weights.take_matrix("W_dec"),
        weights.take("b_dec"),
        selection,
        "relu" if threshold is None else "jumprelu",
        w_skip=weights.take_if_there("W_skip"),
        source=weights.finish(NAME),
        hookpoint=reads,
        output_hookpoint=writes,
        is_transcoder=True,
        prepend_bos=True,
        scan=scan_of(hooks),
        remarks=weights.remarks,
    )
