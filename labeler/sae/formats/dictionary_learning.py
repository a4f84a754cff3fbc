"""dictionary_learning: `ae.pt`, and `config.json` that names the class."""

from __future__ import annotations

from typing import Any

import torch

from labeler.errors import FormatError
from labeler.published import places
from labeler.published.names import layer_of
from labeler.published.refusals import DICTIONARY_CLASSES as _CLASSES
from labeler.sae.files import positive_int, read_config
from labeler.sae.matrices import unit_decoder
from labeler.sae.sae import SAE, Selection
from labeler.sae.weights import Weights

NAME = "dictionary_learning"


def recognizes(weights: Weights) -> bool:
    if weights.path.suffix != ".pt":
        return False
    if weights.path.name == "ae.pt":
        return True
    return bool(weights.names & {"encoder.weight", "W_enc"}) and "trainer" in (weights.config("config.json") or {})


def read(weights: Weights) -> SAE:
    trainer = _trainer(weights)
    _check_layer(trainer, weights)
    kind = trainer.get("dict_class")
    if kind not in _CLASSES:
        raise FormatError(
            f"SAE {weights.path.parent}: dict_class {kind!r} is not supported; known are {', '.join(_CLASSES)}"
        )
    has_matrices = "W_enc" in weights.names  # JumpReLU and Matryoshka; the others hold nn.Linear layers
    w_enc = weights.take_matrix("W_enc").T if has_matrices else weights.take_matrix("encoder.weight")
    w_dec = weights.take_matrix("W_dec") if has_matrices else weights.take_matrix("decoder.weight").T
    b_enc = weights.take("b_enc", "encoder.bias") if kind != "GatedAutoEncoder" else torch.zeros(len(w_enc))
    if kind == "AutoEncoder":
        # The library brings decoder columns to unit norm when it loads this class, and scales the encoder to match.
        w_enc, b_enc, w_dec = unit_decoder(w_enc, b_enc, w_dec)
    b_dec = weights.take("b_dec", "decoder_bias", "decoder.bias", "bias")
    selection = _selection(str(kind), trainer, weights)
    # Of TopK the trained threshold, which its encoder does not use; of Matryoshka how the features are grouped.
    weights.ignore("threshold", "k", "group_sizes", "num_tokens_since_fired")
    return SAE(
        w_enc,
        b_enc,
        w_dec,
        b_dec,
        selection,
        str(kind),
        weights.finish(NAME),
        centred=kind not in ("AutoEncoderNew", "JumpReluAutoEncoder"),
        hookpoint=places.dictionary_learning(trainer, weights.origin),
        reads_input=_reads_input(trainer, weights),
        remarks=weights.remarks,
    )


def _trainer(weights: Weights) -> dict[str, Any]:
    folder = weights.path.parent
    if not (folder / "config.json").is_file():
        raise FormatError(
            f"SAE {folder}: no config.json beside ae.pt: nothing says of which class it is, and classes with equal tensors "
            'compute other features; write {"trainer": {"dict_class": "..."}} into one'
        )
    trainer = read_config(folder / "config.json").get("trainer")
    if not isinstance(trainer, dict):
        raise FormatError(f"SAE {folder}: config.json has no object `trainer` that names the dict_class")
    return trainer


def _selection(kind: str, trainer: dict[str, Any], weights: Weights) -> Selection:
    if kind == "AutoEncoderTopK":
        # Older files have k in the configuration alone.
        found = weights.tensors.get("k", trainer.get("k"))
        k = positive_int(found, "k", weights.path.parent)
        if trainer.get("k") not in (None, k):
            raise FormatError(
                f"SAE {weights.path}: it holds k: {k}, and config.json says {trainer['k']!r}; keep the right one"
            )
        return Selection("topk", k=k)
    if kind in ("JumpReluAutoEncoder", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold = weights.take("threshold")
        if threshold.ndim == 0 and float(threshold) < 0:
            raise FormatError(
                f"SAE {weights.path}: its threshold is {float(threshold):g}, which means that training ended before one was "
                "learned: with it every feature fires on every token"
            )
        return Selection("threshold", threshold=threshold)
    if kind == "GatedAutoEncoder":
        return Selection(
            "gated",
            gate_bias=weights.take("gate_bias"),
            magnitude_scale=weights.take("r_mag").exp(),
            magnitude_bias=weights.take("mag_bias"),
        )
    return Selection("relu")


def _reads_input(trainer: dict[str, Any], weights: Weights) -> bool:
    side = trainer.get("io", _buffer(weights).get("io", "out"))
    if side not in ("in", "out", None):
        raise FormatError(f"SAE {weights.path.parent}: io is {side!r}, which is not supported; known are in, out")
    return bool(side == "in")


def _buffer(weights: Weights) -> dict[str, Any]:
    found = (weights.config("config.json") or {}).get("buffer")
    return found if isinstance(found, dict) else {}


def _check_layer(trainer: dict[str, Any], weights: Weights) -> None:
    name, layer = trainer.get("submodule_name"), trainer.get("layer")
    named = layer_of(str(name)) if name else None
    if layer is not None and named is not None and str(layer) != str(named):
        raise FormatError(
            f"SAE {weights.path.parent}: config.json says layer: {layer!r} and submodule_name: {name!r}; keep the right one"
        )
