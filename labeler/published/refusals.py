"""The kinds of each layout that are read, and why an SAE of another kind is not: told by its configuration alone.

The readers (`labeler/sae/formats`) refuse the same, and more that only the tensors show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Architecture -> the way in which features are selected.
SAELENS_KINDS = {
    "standard": "relu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "topk": "topk",
    "topk_transcoder": "topk",
    "abstopk": "abstopk",
    "jumprelu": "threshold",
    "jumprelu_transcoder": "threshold",
    "jumprelu_skip_transcoder": "threshold",
    "gated": "gated",
    "matching_pursuit": "pursuit",
}
# Of sparsify's siblings (clt-training), what changes an encoder or its decoders.
SPARSIFY_REFUSED = (
    "gram_lookup",
    "embed_skip",
    "normalize_io",
    "n_targets",
    "n_sources",
    "post_encoder_scale",
    "matryoshka",
    "per_source_tied",
    "coalesce_topk",
    "topk_coalesced",
    "secondary_target_tied",
    "divide_cross_layer",
)
DICTIONARY_CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
)
OPENMOSS_NORMS = (None, "none", "inference", "dataset-wise")
_MODEL_KINDS = {"circuit_tracer": "transcoder_set", "cross_layer": "cross_layer_transcoder"}
# Layouts whose reader needs the configuration.
_CONFIGURED = {"sparsify": "cfg.json", "saelens": "cfg.json", "dictionary_learning": "config.json"}


def saelens_architecture(cfg: Mapping[str, Any]) -> str:
    # Before SAELens 4 a TopK SAE was a "standard" one with another activation function.
    name = str(cfg.get("architecture", "standard"))
    return "topk" if name == "standard" and cfg.get("activation_fn_str", cfg.get("activation_fn")) == "topk" else name


def refusal(layout: str, config: Mapping[str, Any] | None) -> str:
    """Why an SAE of this layout and configuration is not read; empty where nothing here speaks against it."""
    if layout == "temporal":
        return "a temporal SAE, whose code of a token attends to the tokens before it"
    if config is None:
        return f"no {_CONFIGURED[layout]} beside the weights" if layout in _CONFIGURED else ""
    if layout == "saelens" and (name := saelens_architecture(config)) not in SAELENS_KINDS:
        return f"architecture {name!r} of SAELens"
    if layout == "sparsify" and (asked := [key for key in SPARSIFY_REFUSED if config.get(key)]):
        return f"of another library than sparsify: it needs {', '.join(asked)}"
    if layout == "dictionary_learning":
        trainer = config.get("trainer")
        kind = trainer.get("dict_class") if isinstance(trainer, dict) else None
        return "" if kind in DICTIONARY_CLASSES else f"dict_class {kind!r} of dictionary_learning"
    if layout == "gemma_scope_2" and (name := config.get("architecture", "jump_relu")) != "jump_relu":
        return f"architecture {name!r}, not jump_relu"
    if layout in ("openmoss", "llama_scope") and (norm := config.get("norm_activation")) not in OPENMOSS_NORMS:
        return f"norm_activation {norm!r}, which cannot be reproduced for each token by itself"
    wanted = _MODEL_KINDS.get(layout)
    if wanted and (kind := config.get("model_kind", wanted)) != wanted:
        return f"model_kind {kind!r}, not {wanted}"
    return ""
