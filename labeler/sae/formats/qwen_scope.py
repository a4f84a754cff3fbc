"""Qwen-Scope: `layerN.sae.pt` with `W_enc [F, d]` and `W_dec [d, F]`; TopK on the residual stream, input not centered."""

from __future__ import annotations

import re
from typing import Any

from labeler.errors import FormatError
from labeler.published import places
from labeler.sae.files import positive_int
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "qwen_scope"


def recognizes(weights: Weights) -> bool:
    return weights.path.name.endswith(".sae.pt") and weights.names == {"W_enc", "W_dec", "b_enc", "b_dec"}


def read(weights: Weights) -> SAE:
    config = weights.config_of_repository("config.json") or {}
    w_enc, w_dec = weights.take_matrix("W_enc"), weights.take_matrix("W_dec").T
    b_enc, b_dec = weights.take("b_enc"), weights.take("b_dec")
    return SAE(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        Selection("topk", k=_k(weights, config)),
        "topk",
        weights.finish(NAME),
        hookpoint=places.qwen_scope(weights.path.name, config),
        remarks=weights.remarks,
    )


def _k(weights: Weights, config: dict[str, Any]) -> int:
    match = re.search(r"L0_(\d+)", weights.origin)
    named = int(match[1]) if match else None
    if None not in (config.get("k"), named) and config["k"] != named:
        raise FormatError(
            f"SAE {weights.path}: config.json says k: {config['k']!r}, and the repository's name {named}; keep the right one"
        )
    if config.get("k") is None and named is None:
        raise FormatError(
            f"SAE {weights.path}: nothing says how many features fire per token: put it in a folder called as its "
            'repository (`..._L0_50`), or write {"k": 50} into a config.json beside it'
        )
    return positive_int(named if config.get("k") is None else config["k"], "k", weights.path)
