"""OpenMOSS' Language-Model-SAEs (Llama Scope R1 and newer): `config.json`, `sae_weights.safetensors`; JumpReLU."""

from __future__ import annotations

import math
from typing import Any

import torch

from labeler.errors import FormatError
from labeler.published import places
from labeler.sae.files import positive_int
from labeler.sae.matrices import row_norms
from labeler.sae.sae import SAE, Selection, rescaled
from labeler.sae.weights import Weights

NAME = "openmoss"
_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
_NORMS = "dataset_average_activation_norm"


def recognizes(weights: Weights) -> bool:
    if weights.path.suffix != ".safetensors" or weights.config("config.json") is None:
        return False
    return weights.has("encoder.weight", "decoder.weight") or weights.has("W_E", "W_D")


def read(weights: Weights) -> SAE:
    config = weights.config("config.json") or {}
    kinds = ("sae", "transcoder", "crosscoder")
    harmless = {"use_glu_encoder": (False,), "apply_decoder_bias_to_pre_encoder": (False,), "sae_type": kinds}
    weights.refuse_keys(config, harmless, "config.json")
    if config.get("sae_type") == "crosscoder":
        return _crosscoder(weights, config)
    older = "encoder.weight" in weights.names
    w_enc = weights.take_matrix("encoder.weight") if older else weights.take_matrix("W_E").T
    w_dec = weights.take_matrix("decoder.weight").T if older else weights.take_matrix("W_D")
    b_enc = weights.take("encoder.bias", "b_E")
    b_dec = weights.take("decoder.bias", "b_D")
    found = scales(weights, config)
    selection = _selection(weights, config, w_dec)
    reads, writes = places.openmoss(config)
    sae = SAE(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        selection,
        selection.kind,
        weights.finish(NAME),
        hookpoint=reads,
        output_hookpoint=writes,
        is_transcoder=writes is not None,
        prepend_bos=True,
        scales_input=config.get("norm_activation") == "dataset-wise",
        lacks_scale=found is None,
        remarks=weights.remarks,
    )
    return sae if found is None else rescaled(sae, *found)


def _crosscoder(weights: Weights, config: dict[str, Any]) -> SAE:
    """Read a crosscoder: a feature adds up what it reads at each of its places, and writes to each.

    The library gives an activation for each place, which is the pre-activation where this times the norm of the place's
    decoder row is above the threshold. A feature's activation here is the highest of them; each place gets its own.
    """
    places = config.get("hook_points")
    if not isinstance(places, list) or not all(isinstance(place, str) for place in places) or not places:
        raise FormatError(
            f"SAE {weights.path}: config.json has no list hook_points, the places that a crosscoder reads"
        )
    kind = str(config.get("act_fn", "jumprelu")).lower()
    if kind not in ("relu", "jumprelu") or config.get("norm_activation") not in (None, "none", "inference"):
        raise FormatError(
            f"SAE {weights.path}: a crosscoder with act_fn {kind!r} and norm_activation {config.get('norm_activation')!r} is not "
            "supported; known are relu and jumprelu on inputs as they are"
        )
    w_enc, w_dec = weights.take_matrix("W_E"), weights.take_matrix("W_D")  # [P, d, F], [P, F, d]
    if w_enc.ndim != 3 or len(w_enc) != len(places):
        raise FormatError(f"SAE {weights.path}: W_E has shape {tuple(w_enc.shape)}, expected [{len(places)}, d, F]")
    gates = None
    if kind == "jumprelu":
        threshold = weights.take(*_THRESHOLDS).exp().expand(len(places), w_dec.shape[1])
        gates = threshold / torch.stack([row_norms(place)[:, 0] for place in w_dec])
    selection = Selection("relu") if gates is None else Selection("threshold", threshold=gates.amin(0))
    return SAE(
        w_enc.flatten(0, 1).T,
        weights.take("b_E").sum(0),
        w_dec.transpose(0, 1).flatten(1),
        weights.take("b_D").flatten(),
        selection,
        kind,
        weights.finish(NAME),
        hookpoint="+".join(places),
        writes=tuple(places) if len(places) > 1 else (),
        gates=gates,
        prepend_bos=True,
        remarks=weights.remarks,
    )


def _selection(weights: Weights, config: dict[str, Any], w_dec: Any) -> Selection:
    kind = str(config.get("act_fn", "jumprelu")).lower()
    if kind in ("jumprelu", "relu") and any(name in weights.names for name in _THRESHOLDS):
        threshold = weights.take(*_THRESHOLDS).exp()
        # Newer files pick features by pre-activation times decoder norm, and keep the plain activation.
        if "W_D" in weights.names and config.get("sparsity_include_decoder_norm", True):
            threshold = threshold / row_norms(w_dec)[:, 0]
        return Selection("threshold", threshold=threshold)
    if kind == "relu":
        return Selection("relu")
    if kind == "topk":
        if config.get("sparsity_include_decoder_norm", True):
            raise FormatError(
                f"SAE {weights.path}: TopK by pre-activation times decoder norm (sparsity_include_decoder_norm) is not supported"
            )
        return Selection("topk", k=positive_int(config.get("top_k") or config.get("k"), "top_k", weights.path))
    raise FormatError(f"SAE {weights.path}: act_fn {kind!r} is not supported; known are jumprelu, relu, topk")


def scales(weights: Weights, config: dict[str, Any]) -> tuple[float, float] | None:
    """The factors by which the hidden state is scaled before encoding, and the reconstruction is divided after decoding.

    None where the files say that there are some, and not how large they are.
    """
    kind = config.get("norm_activation", "none")
    if kind in (None, "none", "inference"):
        return 1.0, 1.0
    if kind != "dataset-wise":
        raise FormatError(
            f"SAE {weights.path}: norm_activation {kind!r} cannot be reproduced for each token by itself, and is refused; known "
            "are dataset-wise, inference"
        )
    found = {name: weights.take(name) for name in sorted(weights.names) if name.startswith(_NORMS)}
    stated = config.get(_NORMS) or {}
    root = math.sqrt(int(config["d_model"]))
    given = {str(k): float(v) for k, v in stated.items()} if isinstance(stated, dict) else {}
    given |= {name.rpartition(".")[2]: float(value) for name, value in found.items()}
    reads, writes = config.get("hook_point_in", ""), config.get("hook_point_out", "")
    first = given.get(str(reads), given.get("in"))
    if first is None:
        return None
    return root / first, root / given.get(str(writes), given.get("out", first))
