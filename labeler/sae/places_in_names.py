"""Read layers and places from the names of repositories, folders and files, where publishers put them."""

from __future__ import annotations

import re
from typing import Any


def layer_of(origin: str) -> int | None:
    """Return the layer that a repository and path name, as `layer_12`, `layer12`, `L12R` or `layers.12`.

    `L0_50` and the like are no layer: they name how many features fire per token.
    """
    for pattern in (
        r"layers?[_.\-]?(\d+)",
        r"(?:^|[/_\-])[lL](?!0[_\-](?:\d|small|medium|big))(\d+)(?=[A-Z]?(?:[-_/.]|$))",
    ):
        found = re.findall(pattern, origin)
        if found:
            return int(found[-1])
    return None


def spelled(name: Any) -> str | None:
    """`model.layers.3.output` as `model.layers.3:output`; a bare module path is its output."""
    if not name:
        return None
    text = str(name)
    for side in ("input", "output"):
        if text.endswith(f".{side}"):
            return f"{text.removesuffix(f'.{side}')}:{side}"
    return f"{text}:output"


def gemma_scope_place(origin: str) -> tuple[str | None, str | None]:
    """Return the place that the path names, and for a transcoder its aim, as in `gemma-scope-2b-pt-mlp/layer_12/...`."""
    match = re.search(r"gemma-scope-\d+b-(?:pt|it)-(res|mlp|att|transcoders)", origin)
    layer = layer_of(origin)
    if match is None:
        return None, None
    if match[1] == "res" and "embedding" in origin:
        return "model.embed_tokens", None
    if layer is None:
        return None, None
    block = f"model.layers.{layer}"
    if match[1] == "transcoders":
        return f"{block}.pre_feedforward_layernorm:output", f"{block}.post_feedforward_layernorm:output"
    places = {
        "res": f"{block}:output",
        "mlp": f"{block}.post_feedforward_layernorm:output",
        "att": f"{block}.self_attn.o_proj:input",
    }
    return places[match[1]], None


def gemma_scope_2_place(origin: str) -> tuple[str | None, str | None]:
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
