"""EleutherAI sparsify: `<hookpoint>/cfg.json` and `<hookpoint>/sae.safetensors`; TopK or groupmax, or a transcoder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from labeler.errors import FormatError
from labeler.published import places
from labeler.published.names import root_of
from labeler.published.refusals import SPARSIFY_REFUSED
from labeler.sae.files import positive_int, read_config
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "sparsify"
_KNOWN = {
    "activation",
    "k",
    "transcode",
    "skip_connection",
    "d_in",
    "num_latents",
    "expansion_factor",
    "normalize_decoder",
    "multi_topk",
    "signed",
}


def recognizes(weights: Weights) -> bool:
    return weights.path.name == "sae.safetensors"


def read(weights: Weights) -> SAE:
    config = read_config(weights.path.parent / "cfg.json")
    activation = config.get("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise FormatError(f"SAE {weights.path}: activation {activation!r} is not supported; known are topk, groupmax")
    _refuse_siblings(weights, config)
    # A signed SAE picks its features by size on both sides of zero, and keeps negative activations.
    weights.refuse_keys(config, {"signed": (False, None)}, "cfg.json")
    weights.check_keys(config, _KNOWN, "cfg.json")
    w_enc, b_enc = weights.take_matrix("encoder.weight"), weights.take("encoder.bias")
    w_dec, b_dec = weights.take_matrix("W_dec"), weights.take("b_dec")
    w_skip = weights.take_if_there("W_skip")
    if bool(config.get("skip_connection")) and w_skip is None:
        raise FormatError(f"SAE {weights.path}: cfg.json says skip_connection, and the file has no W_skip")
    # Published skip transcoders do not say `transcode`: their input is centered, and they aim at the module's output.
    transcodes = bool(config.get("transcode")) or w_skip is not None
    return SAE(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        Selection(activation, k=positive_int(config.get("k"), "k", weights.path.parent)),
        activation,
        weights.finish(NAME),
        centred=not config.get("transcode"),
        w_skip=w_skip,
        hookpoint=_hookpoint(weights),
        is_transcoder=transcodes,
        reads_input=transcodes,
        remarks=weights.remarks,
    )


def _hookpoint(weights: Weights) -> str | None:
    """The place that the folder is called after; the root of a repository in the hub's cache is called after its commit."""
    folder = weights.path.parent
    return None if root_of(weights.path) == Path(os.path.abspath(folder)) else places.sparsify(folder.as_posix())


def _refuse_siblings(weights: Weights, config: dict[str, Any]) -> None:
    asked = [key for key in SPARSIFY_REFUSED if config.get(key)]
    decoders = sorted(name for name in weights.names if name.startswith(("W_decs.", "W_skips.", "b_decs.")))
    if asked or decoders:
        raise FormatError(
            f"SAE {weights.path}: it needs {', '.join(asked + decoders[:3])}, which is not supported: it is of another library "
            "than sparsify, or reads and writes more than the hidden states of one place"
        )
