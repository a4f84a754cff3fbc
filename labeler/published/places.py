"""The place that each published layout reads and, for a transcoder, writes: told by names and small configurations.

The readers (`labeler/sae/formats`) and the list of a repository ask here, so that both say the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from labeler.published.names import layer_of

# CLTs and transcoder sets of circuit-tracer whose repository has no configuration are of the same kind as their siblings.
CLT_HOOKS = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
SET_HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
SUBMODULES = {
    "resid_post": "hook_resid_post",
    "resid_pre": "hook_resid_pre",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
}
Places = tuple[str | None, str | None]  # read, and written where that is another


def residual(name: str) -> str | None:
    """The residual stream after the layer that a file's name says."""
    layer = layer_of(name)
    return None if layer is None else f"blocks.{layer}.hook_resid_post"


def gemma_scope(origin: str) -> Places:
    """The place that the path names, and for a transcoder its aim, as in `gemma-scope-2b-pt-mlp/layer_12/...`."""
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


def gemma_scope_2(origin: str, config: Mapping[str, Any]) -> Places:
    """The places that `config.json` says, else those that the path names."""
    reads, writes = (spelled(config.get(f"hf_hook_point_{side}")) for side in ("in", "out"))
    if reads is None:
        reads, writes = _gemma_scope_2_path(origin)
    return reads, writes if writes != reads else None


def _gemma_scope_2_path(origin: str) -> Places:
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


def gemma_scope_2_template(config: Mapping[str, Any], side: str, is_clt: bool) -> str:
    """The place of a CLT's or a crosscoder's layers, with `{}` for the layer's number."""
    given = spelled(config.get(f"hf_hook_point_{side}"))
    if given is not None:
        return re.sub(r"\{[^}]*\}", "{}", given) if "{" in given else re.sub(r"layers\.\d+", "layers.{}", given)
    norms = {"in": "pre_feedforward_layernorm:output", "out": "post_feedforward_layernorm:output"}
    return f"model.layers.{{}}.{norms[side]}" if is_clt else "model.layers.{}:output"


def is_gemma_scope_2_clt(origin: str, config: Mapping[str, Any]) -> bool:
    """Tell a CLT from a crosscoder, whose files are called alike."""
    said = f"{config.get('type', '')}/{origin}".lower()
    if "crosscoder" in said:
        return False
    return "clt" in said or config.get("hf_hook_point_out") not in (None, config.get("hf_hook_point_in"))


def stated_layers(config: Mapping[str, Any], folder: str) -> list[tuple[int, ...]]:
    """The subject's layers that `config.json` and the name of the folder say, in this order."""
    braces = re.search(r"\{([^}]*)\}", str(config.get("hf_hook_point_in") or ""))
    named = re.findall(r"layers?((?:_\d+)+)(?=_width|/|$)", folder)
    texts = (braces[1] if braces else "", named[-1] if named else "")
    return [tuple(map(int, re.findall(r"\d+", text))) for text in texts]


def spelled(name: Any) -> str | None:
    """`model.layers.3.output` as `model.layers.3:output`; a bare module path is its output."""
    if not name:
        return None
    text = str(name)
    for side in ("input", "output"):
        if text.endswith(f".{side}"):
            return f"{text.removesuffix(f'.{side}')}:{side}"
    return f"{text}:output"


def qwen_scope(file: str, config: Mapping[str, Any]) -> str | None:
    """The hook point that `config.json` says where it is of this layer, else the residual stream after it."""
    named, layer = config.get("hook_point"), layer_of(file)
    if isinstance(named, str) and layer is not None and "{" not in named:
        return named if str(layer) in re.findall(r"\d+", named) else residual(file)
    return residual(file)


def openmoss(config: Mapping[str, Any]) -> Places:
    """The hook points of `config.json` or `hyperparams.json`; a crosscoder reads all of its own."""
    points = config.get("hook_points")
    if config.get("sae_type") == "crosscoder" and isinstance(points, list):
        return "+".join(map(str, points)), None
    reads, writes = config.get("hook_point_in"), config.get("hook_point_out")
    return reads, writes if writes is not None and writes != reads else None


def circuit_tracer(layer: int | None, hooks: Mapping[str, Any]) -> tuple[str, str]:
    return f"blocks.{layer}.{hooks['feature_input_hook']}", f"blocks.{layer}.{hooks['feature_output_hook']}"


def sparsify(folder: str) -> str:
    """The module path that the folder is called after; with several seeds there is one more folder for each."""
    above, _, name = folder.rpartition("/")
    return above.rpartition("/")[2] if re.fullmatch(r"seed\d+", name) else name


def dictionary_learning(trainer: Mapping[str, Any], origin: str) -> str | None:
    """`resid_post_layer_8` and the like, as the library names submodules; other names are module paths already."""
    name, layer = trainer.get("submodule_name"), trainer.get("layer")
    if not name:
        match = re.search(r"(resid_post|resid_pre|mlp_out|attn_out)_layer_\d+", origin)
        name = match[0] if match else None
    if not name:
        return None
    if layer is None:
        layer = layer_of(str(name))
    for prefix, hook in SUBMODULES.items():
        if str(name).startswith(prefix):
            return None if layer is None else f"blocks.{layer}.{hook}"
    return str(name)


def saelens(metadata: Mapping[str, Any], side: str = "") -> str | None:
    """The module path where the metadata has one, which says more than a lens name; else the lens name."""
    if module := metadata.get(f"hf_hook_name{side}"):
        return spelled(module)
    name = metadata.get(f"hook_name{side}") or (metadata.get("hook_point") if not side else None)
    return None if name is None else str(name)
