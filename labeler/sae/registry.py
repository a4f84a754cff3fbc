"""What sae-lens' registry says of an SAE beside its files: where they lie, a norm, overrides, how the subject was loaded.

`sae-lens:RELEASE/ID` reads the registry of the installed sae-lens. An entry that we cannot apply is refused by name.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from labeler.errors import FormatError, NotFoundError
from labeler.places import release_of_saelens
from labeler.sae.sae import SAE, rescaled

# Entries that change nothing of what a feature is.
_HARMLESS = {"dataset_path", "model_name", "neuronpedia_id", "context_size"}


def registered(name: str) -> tuple[Any, str]:
    """Return the release and the SAE's id in it. Raises NotFoundError."""
    release, sae_id = release_of_saelens(name)
    directory = _directory(name)
    if release not in directory or sae_id not in directory[release].saes_map:
        raise NotFoundError(f"SAE {name!r}: sae-lens lists no such release and id")
    return directory[release], sae_id


def release_of(name: str) -> Any:
    """Return the release of `sae-lens:RELEASE`. Raises NotFoundError."""
    directory, release = _directory(name), name.removeprefix("sae-lens:").rstrip("/")
    if release not in directory:
        near = difflib.get_close_matches(release, list(directory), n=5, cutoff=0.4)
        has = f"; it has {', '.join(near)}" if near else ""
        raise NotFoundError(f"{name!r}: sae-lens lists no such release{has}")
    return directory[release]


def path_of(release: Any, sae_id: str) -> str:
    """Return where the repository holds the SAE of this id."""
    path = str(release.saes_map[sae_id])
    # The registry names a layer of a cross-layer transcoder by its number alone.
    return f"W_enc_{path}.safetensors" if path.isdecimal() else path


def _directory(name: str) -> Any:
    try:
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    except ImportError as error:
        raise NotFoundError(
            f"SAE {name!r}: releases are listed by the package sae-lens, which is not installed: pip install sae-lens, or name the "
            "repository itself with hf:OWNER/REPO/PATH"
        ) from error
    return get_pretrained_saes_directory()


def as_registered(sae: SAE, name: str) -> SAE:
    """Apply what the registry says to the SAE that was read from its files. Raises FormatError for what we cannot apply."""
    entry, sae_id = registered(name)
    overrides = dict(entry.config_overrides or {})
    if overrides.pop("normalize_activations", None) == "constant_norm_rescale":
        sae = _remarked(
            replace(sae, normalisation="constant_norm_rescale"), "normalize_activations: constant_norm_rescale"
        )
    if hook := overrides.pop("hook_name", None):
        sae = _remarked(replace(sae, hookpoint=str(hook)), f"hook_name: {hook}")
    if "prepend_bos" in overrides:
        sae = replace(sae, prepend_bos=bool(overrides.pop("prepend_bos")))
    loading = dict(overrides.pop("model_from_pretrained_kwargs", None) or {})
    if loading.pop("center_writing_weights", False):
        # TransformerLens' centered weights leave the hidden state without its mean over d.
        sae = _remarked(replace(sae, hookpoint=f"{sae.hookpoint}|centered"), "center_writing_weights")
    if left := sorted({*overrides, *loading} - _HARMLESS - {"normalize_activations", "hook_name"}):
        raise FormatError(f"SAE {name!r}: sae-lens' registry sets {', '.join(left)}, which is not supported")
    factor = entry.norm_scaling_factor.get(sae_id)
    if factor is not None and sae.scales_input:
        sae = rescaled(replace(sae, lacks_scale=False), factor / sae.input_scale, factor / sae.input_scale)
    return sae


def _remarked(sae: SAE, what: str) -> SAE:
    return replace(sae, remarks=(*sae.remarks, f"by sae-lens' registry: {what}"))
