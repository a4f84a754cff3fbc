"""SAELens: `cfg.json` and `sae_weights.safetensors`, as SAELens 6 writes them, and the older names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeler.errors import FormatError, InputError
from labeler.files import clear_disk_errors, write_atomically
from labeler.published import places
from labeler.published.refusals import SAELENS_KINDS as _KINDS
from labeler.sae.files import checked, positive_int, read_config
from labeler.sae.loading import FOLDED, read_loading
from labeler.sae.matrices import unit_decoder
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "saelens"
WEIGHTS = "sae_weights.safetensors"
_NORMALISATIONS = {
    None: "none",
    "none": "none",
    False: "none",
    "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm_rescale",
    # The factor was folded into the weights when the SAE was saved.
    "expected_average_only_in": "none",
    True: "none",
}
# Keys that change what a feature is, with the values at which they do not.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "hook_head_index": (None,),
    "hook_point_head_index": (None,),
    "activation_fn_str": ("relu", "topk", None),
    "activation_fn": ("relu", "topk", None),
    "finetuning_scaling_factor": (False, None),
    "noise_scale": (0, 0.0, None),
    "model_kwargs": ({}, None),
    "reshape_activations": ("none", "hook_z", None),
    "is_transcoder": (False, None),
}
# Keys that were renamed; a file that has both with different values says two things.
_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}


def recognizes(weights: Weights) -> bool:
    folder = weights.path.parent
    # OpenMOSS calls its weights the same, and its configuration config.json.
    return weights.path.name == WEIGHTS and ((folder / "cfg.json").exists() or not (folder / "config.json").exists())


def read(weights: Weights) -> SAE:
    return read_parts(weights, read_config(weights.path.parent / "cfg.json"))


def sae_of(sae: Any) -> SAE:
    """Read a loaded SAELens `SAE` by its attributes, without importing SAELens. Raises FormatError or InputError."""
    cfg: Any = getattr(sae, "cfg", None)
    if not callable(getattr(cfg, "to_dict", None)) or not callable(getattr(sae, "state_dict", None)):
        raise InputError(
            f"an SAE of type {type(sae).__name__!r} is not known: give a path, `hf:OWNER/REPO/PATH`, or a SAELens SAE, "
            "which has a `cfg` and a `state_dict`"
        )
    weights = Weights.in_memory("SAELens object", {name: t.detach().cpu() for name, t in sae.state_dict().items()})
    return checked(read_parts(weights, dict(cfg.to_dict())))


def read_parts(weights: Weights, cfg: dict[str, Any]) -> SAE:
    """The SAE of a configuration and tensors, from files or from memory."""
    folder = weights.path.parent
    metadata = {**cfg, **_object(cfg, "metadata", folder)}
    _refuse_two_values(metadata, folder)
    architecture = _architecture(cfg, metadata, folder)
    if architecture not in _KINDS:
        raise FormatError(f"SAE {folder}: {_unsupported(architecture)}; known are {', '.join(_KINDS)}")
    weights.refuse_keys(metadata, _HARMLESS, "cfg.json")
    _refuse_of_other_kinds(weights, cfg, architecture)
    normalisation = cfg.get("normalize_activations")
    if not isinstance(normalisation, str | bool | None) or normalisation not in _NORMALISATIONS:
        raise FormatError(f"SAE {folder}: normalize_activations {normalisation!r} is not supported")
    kind = _KINDS[architecture]
    place = places.saelens(metadata)
    is_centered, remarks = read_loading(metadata.get("model_from_pretrained_kwargs"), place, f"SAE {folder}: cfg.json")
    for remark in (*(["center_writing_weights"] if is_centered else []), *remarks):
        weights.remark(f"by cfg.json: {remark}")
    scales_input = normalisation in ("expected_average_only_in", True)
    if scales_input:
        weights.remark(f"by cfg.json: {FOLDED}")
    if is_centered:
        place = f"{place}|centered"
    if kind == "pursuit":
        return _pursuit(weights, cfg, metadata, _NORMALISATIONS[normalisation], place)
    w_enc, w_dec = weights.take_matrix("W_enc").T, weights.take_matrix("W_dec")
    b_enc = torch.zeros(len(w_enc)) if kind == "gated" else weights.take("b_enc")
    if cfg.get("rescale_acts_by_decoder_norm"):
        w_enc, b_enc, w_dec = unit_decoder(w_enc, b_enc, w_dec)
    selection = _selection(kind, cfg, weights)
    _check_scaling_factor(weights)
    w_skip = weights.take("W_skip") if "skip" in architecture else None
    return SAE(
        w_enc,
        b_enc,
        w_dec,
        weights.take("b_dec"),
        selection,
        architecture,
        weights.finish(NAME),
        centred=bool(cfg.get("apply_b_dec_to_input", True)) and "transcoder" not in architecture,
        normalisation=_NORMALISATIONS[normalisation],
        rescaled=bool(cfg.get("rescale_acts_by_decoder_norm")),
        w_skip=w_skip,
        hookpoint=place,
        output_hookpoint=places.saelens(metadata, "_out"),
        is_transcoder="transcoder" in architecture,
        prepend_bos=metadata.get("prepend_bos"),
        remarks=weights.remarks,
        scales_input=scales_input,
        excluded_tokens=_excluded(metadata, folder),
        positions=_positions(metadata, folder),
    )


def _pursuit(
    weights: Weights, cfg: dict[str, Any], metadata: dict[str, Any], normalisation: str, place: str | None
) -> SAE:
    """Read an SAE whose encoder is its decoder, applied again and again (SAELens' MatchingPursuitSAE)."""
    if cfg.get("normalize_activations") in ("expected_average_only_in", True):
        raise FormatError(
            f"SAE {weights.path}: matching pursuit with normalize_activations 'expected_average_only_in' is not supported: its "
            "factor cannot be folded into an encoder that is the decoder too"
        )
    w_dec, b_dec = weights.take_matrix("W_dec"), weights.take("b_dec")
    steps = cfg.get("max_iterations")
    least = cfg.get("residual_threshold", 1e-2)
    if isinstance(least, bool) or not isinstance(least, int | float):
        raise FormatError(f"SAE {weights.path}: residual_threshold is {least!r}; expected a number")
    centred = bool(cfg.get("apply_b_dec_to_input", True))
    selection = Selection(
        "pursuit",
        k=int(w_dec.shape[1]) if steps is None else positive_int(steps, "max_iterations", weights.path),
        threshold=torch.tensor(float(least)),
        stops_at_known=bool(cfg.get("stop_on_duplicate_support", True)),
    )
    return SAE(
        w_dec,
        torch.zeros(len(w_dec)),
        w_dec,
        b_dec if centred else torch.zeros_like(b_dec),
        selection,
        "matching_pursuit",
        weights.finish(NAME),
        centred=centred,
        normalisation=normalisation,
        hookpoint=place,
        prepend_bos=metadata.get("prepend_bos"),
        remarks=weights.remarks,
        excluded_tokens=_excluded(metadata, weights.path.parent),
        positions=_positions(metadata, weights.path.parent),
    )


def _excluded(metadata: dict[str, Any], folder: Path) -> bool | tuple[int, ...]:
    """The tokens that SAELens left out of training: ids, or True for the special tokens of the tokenizer."""
    value = metadata.get("exclude_special_tokens")
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, list | tuple) and all(type(i) is int and 0 <= i < 1 << 31 for i in value):
        return tuple(value)
    raise FormatError(f"SAE {folder}: cfg.json has exclude_special_tokens {value!r}; expected true, false or token ids")


def _positions(metadata: dict[str, Any], folder: Path) -> tuple[int | None, ...] | None:
    """The slice of positions that SAELens trained on: start, stop and step; None for all of them."""
    value = metadata.get("seqpos_slice")
    if value is None:
        return None
    parts = tuple(value) if isinstance(value, list | tuple) else ()
    if not 1 <= len(parts) <= 3 or not all(part is None or type(part) is int for part in parts) or parts[2:] == (0,):
        raise FormatError(
            f"SAE {folder}: cfg.json has seqpos_slice {value!r}; expected [start, stop] with numbers or null"
        )
    return None if all(part is None for part in parts) else parts


def _object(cfg: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    value = cfg.get(key)
    if value is not None and not isinstance(value, dict):
        raise FormatError(f"SAE {folder}: cfg.json has {key} of type {type(value).__name__}; expected an object")
    return value or {}


def _unsupported(architecture: str) -> str:
    if architecture == "batchtopk":
        return (
            "architecture 'batchtopk' is a training checkpoint, which picks its features over a whole batch: save it for "
            "inference with SAELens, which gives each feature a threshold (it is not supported as it is)"
        )
    return f"architecture {architecture!r} is not supported"


def _refuse_two_values(values: dict[str, Any], folder: Path) -> None:
    for old, new in _RENAMED.items():
        if values.get(old) is not None and values.get(new) is not None and values[old] != values[new]:
            raise FormatError(
                f"SAE {folder}: cfg.json says {old}: {values[old]!r} and {new}: {values[new]!r}, which are two names of one value; "
                "keep the one that the SAE was trained with"
            )


def _refuse_of_other_kinds(weights: Weights, cfg: dict[str, Any], architecture: str) -> None:
    """Refuse keys that SAELens obeys in other architectures only."""
    if "topk" not in architecture:
        weights.refuse_keys(cfg, {"rescale_acts_by_decoder_norm": (False, None)}, f"cfg.json of a {architecture!r} SAE")
    if "transcoder" in architecture:
        weights.refuse_keys(cfg, {"apply_b_dec_to_input": (False, None)}, f"cfg.json of a {architecture!r} SAE")


def _architecture(cfg: dict[str, Any], metadata: dict[str, Any], folder: Path) -> str:
    """Return the architecture; before SAELens 4 a TopK SAE was a "standard" one with another activation function."""
    name = str(cfg.get("architecture", "standard"))
    if (cfg.get("activation_fn_str") or cfg.get("activation_fn")) != "topk" or "topk" in name:
        return name
    # From version 6 on SAELens does not read the activation function, and would give what ReLU gives.
    version = str(metadata.get("sae_lens_version") or "").partition(".")[0]
    if name != "standard" or (version.isdecimal() and int(version) >= 6):
        raise FormatError(
            f"SAE {folder}: cfg.json says architecture: {name!r} and activation_fn: 'topk', which contradict each other; write "
            "architecture: 'topk' and k if it is a TopK SAE"
        )
    return "topk"


def _check_scaling_factor(weights: Weights) -> None:
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in weights.names and not bool((weights.take(name) == 1).all()):
            raise FormatError(
                f"SAE {weights.path}: {name} is not 1, which changes what a feature is and is not supported"
            )


def _selection(kind: str, cfg: dict[str, Any], weights: Weights) -> Selection:
    if kind in ("topk", "abstopk"):
        return Selection(kind, k=_k(cfg, weights))
    if kind == "threshold":
        if "log_threshold" in weights.names:
            return Selection(kind, threshold=weights.take("log_threshold").exp())
        return Selection(kind, threshold=weights.take("threshold"))
    if kind == "gated":
        return Selection(
            kind,
            gate_bias=weights.take("b_gate"),
            magnitude_scale=weights.take("r_mag").exp(),
            magnitude_bias=weights.take("b_mag"),
        )
    return Selection(kind)


def _k(cfg: dict[str, Any], weights: Weights) -> int:
    where = weights.path.parent / "cfg.json"
    arguments = _object(cfg, "activation_fn_kwargs", weights.path.parent)
    others = {name: (False, None) for name in arguments if name not in ("k", "use_sparse_activations")}
    weights.refuse_keys(arguments, others, "cfg.json in activation_fn_kwargs")
    # SAELens reads a "standard" SAE as TopK by the k of its activation function alone.
    new, old = cfg.get("k") if cfg.get("architecture", "standard") != "standard" else None, arguments.get("k")
    if new and old and new != old:
        raise FormatError(f"SAE {where}: says k: {new!r} and in activation_fn_kwargs k: {old!r}; keep the right one")
    return positive_int(new or old, "k", where)


def save_saelens(folder: Path, tensors: dict[str, Tensor], cfg: dict[str, Any]) -> None:
    """Write an SAE as SAELens 6 does; the configuration last, so that a folder with one is whole."""
    from safetensors.torch import save_file

    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (WEIGHTS + ".partial")
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)
        partial.chmod(0o644)  # safetensors makes files that only their owner can read
        (folder / "cfg.json").unlink(missing_ok=True)  # of the SAE that was here: it would be read with these weights
        os.replace(partial, folder / WEIGHTS)
        write_atomically(folder / "cfg.json", json.dumps(cfg, indent=1).encode())
