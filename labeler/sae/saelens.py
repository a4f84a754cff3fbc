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
from labeler.sae.files import (
    checked,
    positive_int,
    read_config,
    read_safetensors,
    source_of,
    tensor,
    unit_decoder,
)
from labeler.sae.sae import SAE, Selection, Source
from labeler.tensors import state_hash

WEIGHTS = "sae_weights.safetensors"
_KINDS = {
    "standard": "relu", "transcoder": "relu", "skip_transcoder": "relu",
    "topk": "topk", "topk_transcoder": "topk", "batchtopk": "topk", "abstopk": "abstopk",
    "jumprelu": "threshold", "jumprelu_transcoder": "threshold", "jumprelu_skip_transcoder": "threshold",
    "gated": "gated",
}  # fmt: skip
_NORMALISATIONS = {
    None: "none", "none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm_rescale",
    # The factor was folded into the weights when the SAE was saved.
    "expected_average_only_in": "none",
}  # fmt: skip


def is_saelens(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file()


def read_saelens(folder: Path) -> SAE:
    path = folder / WEIGHTS
    return _sae(read_config(folder / "cfg.json"), read_safetensors(path), source_of(path, "saelens"))


def sae_of(sae: Any) -> SAE:
    """Read a loaded SAELens `SAE` by its attributes, without importing SAELens. Raises FormatError or InputError."""
    cfg: Any = getattr(sae, "cfg", None)
    if not callable(getattr(cfg, "to_dict", None)) or not callable(getattr(sae, "state_dict", None)):
        raise InputError(
            f"an SAE of type {type(sae).__name__!r} is not known: give a path, `hf:OWNER/REPO/PATH`, or a SAELens SAE, "
            "which has a `cfg` and a `state_dict`"
        )
    tensors = {name: value.detach().cpu() for name, value in sae.state_dict().items()}
    return checked(_sae(dict(cfg.to_dict()), tensors, Source(Path("SAELens object"), "saelens", state_hash(tensors))))


def _sae(cfg: dict[str, Any], tensors: dict[str, Tensor], source: Source) -> SAE:
    path, folder = source.path, source.path.parent if source.path.suffix else source.path
    architecture = _architecture(cfg)
    if architecture not in _KINDS:
        raise FormatError(
            f"SAE {folder}: architecture {architecture!r} is not supported; known are {', '.join(_KINDS)}"
        )
    normalisation = cfg.get("normalize_activations")
    if normalisation not in _NORMALISATIONS:
        raise FormatError(f"SAE {folder}: normalize_activations {normalisation!r} is not supported")
    w_enc, w_dec = tensor(tensors, path, "W_enc").T.contiguous(), tensor(tensors, path, "W_dec")
    kind = _KINDS[architecture]
    b_enc = torch.zeros(len(w_enc)) if kind == "gated" else tensor(tensors, path, "b_enc")
    if cfg.get("rescale_acts_by_decoder_norm"):
        w_enc, b_enc, w_dec = unit_decoder(w_enc, b_enc, w_dec)
    metadata = {**cfg, **cfg.get("metadata", {})}
    return SAE(
        w_enc, b_enc, w_dec, tensor(tensors, path, "b_dec"), _selection(kind, cfg, tensors, path), architecture, source,
        centred=bool(cfg.get("apply_b_dec_to_input", True)) and "transcoder" not in architecture,
        normalisation=_NORMALISATIONS[normalisation],
        rescaled=bool(cfg.get("rescale_acts_by_decoder_norm")),
        w_skip=tensor(tensors, path, "W_skip") if "skip" in architecture else None,
        hookpoint=metadata.get("hook_name"),
        output_hookpoint=metadata.get("hook_name_out"),
        is_transcoder="transcoder" in architecture,
        prepend_bos=metadata.get("prepend_bos"),
    )  # fmt: skip


def _architecture(cfg: dict[str, Any]) -> str:
    # Before SAELens 4 a TopK SAE was a "standard" one with another activation function.
    name = str(cfg.get("architecture", "standard"))
    return "topk" if name == "standard" and cfg.get("activation_fn_str", cfg.get("activation_fn")) == "topk" else name


def _selection(kind: str, cfg: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> Selection:
    if kind in ("topk", "abstopk"):
        k = cfg.get("k") or (cfg.get("activation_fn_kwargs") or {}).get("k")
        return Selection(kind, k=positive_int(k, "k", path.parent / "cfg.json"))
    if kind == "threshold":
        return Selection(kind, threshold=tensor(tensors, path, "threshold"))
    if kind == "gated":
        return Selection(
            kind,
            gate_bias=tensor(tensors, path, "b_gate"),
            magnitude_scale=tensor(tensors, path, "r_mag").exp(),
            magnitude_bias=tensor(tensors, path, "b_mag"),
        )
    return Selection(kind)


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
