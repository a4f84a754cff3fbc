"""Pair a hookpoint of the subject with the SAE that reads it: the target of a pass."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from labeler.errors import InputError, MismatchError
from labeler.recipe import GatherConfig
from labeler.sae import SAE, identity_sae, load_layers, load_sae
from labeler.sae.load import is_set_of_layers, to
from labeler.subject.hookpoints import CENTERED, FAMILIES, Hookpoint, is_lens_name, parse_hookpoint, reads_an_input
from labeler.subject.model import Subject


@dataclass(frozen=True)
class Target:
    """A hookpoint of the subject, and the SAE that reads it."""

    hookpoint: Hookpoint
    sae: SAE
    aim: Hookpoint | None  # what the SAE should reconstruct; None where a transcoder's file does not say
    names: dict[str, str] | None = (
        None  # of subject and SAE, where the user gave any (labeler/names.py); no part of the identity
    )
    writes: tuple[Hookpoint, ...] = ()  # the places that each feature writes to, where there are several


def choose_target(subject: Subject, sae: SAE, hookpoint: str | None, reads: str | None = None) -> Target:
    """Choose the place where this SAE reads this subject: a module's "input" or "output".

    `reads` decides, or else the names and the SAE.

    Raises InputError or NotFoundError.
    """
    name = hookpoint or (sae.hookpoint or "").removesuffix(f"|{CENTERED}")
    if not name:
        raise InputError(
            "the SAE's file does not say where it reads the subject: give the module path with --hookpoint"
        )
    _ask_for_a_side(hookpoint, sae)
    read = subject.hookpoint(name, reads=reads or _side(name, sae))
    read, sae = _centered_as_the_file_says(subject, read, sae, hookpoint)
    return Target(read, sae, _aim(subject, sae, read), writes=tuple(subject.hookpoint(place) for place in sae.writes))


def _centered_as_the_file_says(subject: Subject, read: Hookpoint, sae: SAE, given: str | None) -> tuple[Hookpoint, SAE]:
    """Take the mean over d away where the SAE was trained without it, also at a place that the user names.

    TransformerLens takes it away in models with LayerNorm only: RMSNorm would give other values without it.
    """
    if parse_hookpoint(sae.hookpoint or "")[2] != CENTERED or (given and parse_hookpoint(given)[2]):
        return read, sae
    family = FAMILIES.get(subject.model_type)
    if family is None or family.is_centered is None:
        ask = f": give --hookpoint '{replace(read, adjust=CENTERED)}' if its hidden states have no mean over d there"
        what = "was not checked" if family is None else "cannot be reproduced"
        raise InputError(
            f"the SAE was trained with TransformerLens' centered weights, and what those do in a {subject.model_type!r} model {what}"
            + (ask if family is None else "")
        )
    if family.is_centered:
        return replace(read, adjust=CENTERED), sae
    remark = "the hidden states are not centered: TransformerLens does so only in models with LayerNorm"
    return replace(read, adjust=""), replace(sae, remarks=(*sae.remarks, remark))


def _side(name: str, sae: SAE) -> str | None:
    """Return the side that the SAE's kind implies, where the name does not say it."""
    return "input" if sae.reads_input and parse_hookpoint(name)[1] is None else None


def _ask_for_a_side(given: str | None, sae: SAE) -> None:
    """Raise InputError where the file reads a module's input and the user names a module without its side."""
    if given is None or sae.hookpoint is None or sae.reads_input or is_lens_name(given):
        return
    if parse_hookpoint(given)[1] is None and reads_an_input(sae.hookpoint):
        raise InputError(
            f"hookpoint {given!r}: the SAE's file says that it reads an input ({sae.hookpoint}), and a module path by itself "
            f"means its output: write {given}:input or {given}:output"
        )


def _aim(subject: Subject, sae: SAE, read: Hookpoint) -> Hookpoint | None:
    """Return the place to reconstruct: for an SAE the place that it reads, for a transcoder a module's output."""
    if not sae.is_transcoder:
        return read
    if sae.output_hookpoint is not None:
        return subject.hookpoint(sae.output_hookpoint)
    return Hookpoint(read.path, "output") if sae.reads_input else None


def named_layer(names: dict[str, str] | None, sae: SAE) -> dict[str, str] | None:
    """Return the names that a user gave to a set, with the layer where the SAE is one of its layers."""
    if names is None or sae.part is None:
        return names
    return {**names, "sae": f"{names['sae']} layer {sae.part.layer}"}


def folder_names(targets: Sequence[Target]) -> list[str]:
    """Return a folder name for each target: the hookpoint and the SAE's own name, numbered where two are alike."""
    names = [
        re.sub(
            r"[^A-Za-z0-9._-]+", "_", f"{t.hookpoint.path}-{t.sae.source.path.parent.name or t.sae.source.path.stem}"
        )
        for t in targets
    ]
    return [name if names.count(name) == 1 else f"{name}-{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def open_sae(subject: Subject, name: str, hookpoint: str | None, dtype: str) -> SAE:
    """Open the SAE of this name (a path, `hf:...`, `sae-lens:...`, `neurons`) on the subject's device and in its dtype."""
    if name == "neurons":
        return neurons(subject, hookpoint)
    return load_sae(name, hookpoint=hookpoint, dtype=dtype, device=subject.device)


def open_saes(
    subject: Subject, name: str, hookpoint: str | None, dtype: str, layers: Collection[int] | None = None
) -> list[SAE]:
    """Open the SAE of this name; of a folder with a file for each layer, those of all layers, or of `layers`."""
    is_plain = name == "neurons" or hookpoint is not None
    if layers is None and (is_plain or not is_set_of_layers(name)):
        return [open_sae(subject, name, hookpoint, dtype)]
    if is_plain:
        raise InputError(f"SAE {name!r}: give either --layers or --hookpoint")
    return load_layers(name, layers, dtype=dtype, device=subject.device)


def neurons(subject: Subject, hookpoint: str | None) -> SAE:
    """Return the neurons that a module gives, as an SAE whose encoder is the identity."""
    if hookpoint is None:
        raise InputError(
            "--sae neurons needs --hookpoint: the module whose output holds the neurons, such as model.layers.3.mlp.act_fn"
        )
    place = subject.hookpoint(hookpoint)
    width = subject.hidden(torch.zeros(1, 1, dtype=torch.long), [place])[place].shape[-1]
    return to(identity_sae(int(width), hookpoint), torch.float32, subject.device)


def bos_token(subject: Subject, sae: SAE, config: GatherConfig) -> int | None:
    """Return the token to put before each sequence: as configured, else as the SAE says, else as the tokenizer does."""
    wanted = config.prepend_bos if config.prepend_bos is not None else sae.prepend_bos
    bos = subject.tokenizer.bos_token_id
    if wanted is None:
        wanted = subject.prepends_bos
    if wanted and bos is None:
        raise MismatchError(f"the SAE was trained with a BOS token, and the tokenizer of {subject.id} has none")
    return bos if wanted else None


def kept_tokens(subject: Subject, sae: SAE, ids: Tensor, sequence_tokens: int, bos: int | None) -> Tensor:
    """Return flags, true for the token ids [sequences, width] that the SAE reads; SAELens leaves the others out of training.

    Positions count in a whole sequence, with its BOS token.
    """
    kept = torch.ones_like(ids, dtype=torch.bool)
    if sae.excluded_tokens:
        excluded = special_tokens(subject) if sae.excluded_tokens is True else sae.excluded_tokens
        kept &= ~torch.isin(ids, torch.tensor(excluded, dtype=ids.dtype))
    if sae.positions is not None:
        columns = range((bos is not None) + sequence_tokens)[slice(*sae.positions)]
        kept &= torch.tensor([column in columns for column in range(ids.shape[1])])
    return kept


def special_tokens(subject: Subject) -> tuple[int, ...]:
    """Return the ids of the special tokens of the subject's tokenizer."""
    return tuple(sorted(set(subject.tokenizer.all_special_ids)))


def identity(subject: Subject, target: Target, corpus_spec: str, config: GatherConfig) -> dict[str, Any]:
    """Return all values by which two passes are the same pass."""
    return {
        "subject": {
            "id": subject.id,
            "revision": subject.revision,
            "dtype": config.dtype,
            "hidden_size": subject.hidden_size,
            "n_parameters": subject.n_parameters,
        },
        "hookpoint": target.hookpoint.path,
        "reads": target.hookpoint.reads,
        **({"adjust": target.hookpoint.adjust} if target.hookpoint.adjust else {}),
        "sae": describe_sae(target.sae),
        **({"writes": [str(place) for place in target.writes]} if target.writes else {}),
        "encoder": describe_encoder(target),
        "corpus": corpus_spec,
        "config": config.to_dict(),
    }


def describe_sae(sae: SAE) -> dict[str, Any]:
    return {
        "path": str(sae.source.path),
        "format": sae.source.format,
        "sha256": sae.source.sha256,
        "architecture": sae.architecture,
        "n_features": sae.n_features,
        "d_in": sae.d_in,
        "prepend_bos": sae.prepend_bos,
        # Only where there are any, so that evidence of earlier versions is still the same pass.
        **({"remarks": list(sae.remarks)} if sae.remarks else {}),
        **({"scan": sae.scan} if sae.scan else {}),
        **({"layer": sae.part.layer} if sae.part else {}),
        **({"exclude_special_tokens": sae.excluded_tokens} if sae.excluded_tokens else {}),
        **({} if sae.positions is None else {"seqpos_slice": list(sae.positions)}),
    }


def describe_encoder(target: Target) -> dict[str, Any]:
    """Describe the settings that an SAE's configuration decides beside its weights."""
    sae = target.sae
    return {
        "selection": sae.selection.kind,
        "k": sae.selection.k,
        "centred": sae.centred,
        "rescaled": sae.rescaled,
        **_pursuit(sae),
        "normalisation": sae.normalisation,
        "aim": None if target.aim is None else str(target.aim),
    }


def _pursuit(sae: SAE) -> dict[str, Any]:
    """Describe when matching pursuit ends; nothing for other encoders."""
    s = sae.selection
    if s.kind != "pursuit" or s.threshold is None:
        return {}
    return {"residual_threshold": float(s.threshold), "stops_at_known": s.stops_at_known}
