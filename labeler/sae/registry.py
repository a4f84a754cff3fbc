"""What sae-lens' registry says of an SAE beside its files: where they lie, a norm, overrides, how the subject was loaded.

`sae-lens:RELEASE/ID` reads the registry of the installed sae-lens, its YAML file alone: importing the package takes
seconds. An entry that we cannot apply is refused by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, NotFoundError
from labeler.places import release_of_saelens
from labeler.sae.loading import CENTERING, FOLDED, read_loading
from labeler.sae.sae import SAE, rescaled

# Entries that change nothing of what a feature is.
_HARMLESS = {"dataset_path", "model_name", "neuronpedia_id", "context_size"}
_FILE = "pretrained_saes.yaml"


@dataclass(frozen=True)
class Registered:
    """One SAE of the registry."""

    release: str
    sae_id: str
    repository: str
    path: str  # of the file, or of the folder that holds its files
    converter: str | None  # the function by which sae-lens reads it; None for files of its own
    overrides: dict[str, Any]
    factor: float | None  # by which the input is scaled

    @property
    def name(self) -> str:
        return f"sae-lens:{self.release}/{self.sae_id}"


def registered(name: str) -> Registered:
    """Return the entry of `sae-lens:RELEASE/ID`. Raises NotFoundError."""
    release, sae_id = release_of_saelens(name)
    releases = _releases(_installed_file(name))
    found = [entry for entry in _entries(release, releases.get(release) or {}) if entry.sae_id == sae_id]
    if not found:
        raise NotFoundError(f"SAE {name!r}: sae-lens lists no such release and id")
    return found[-1]


def registered_in(name: str) -> list[Registered]:
    """Return all entries of `sae-lens:RELEASE`. Raises NotFoundError."""
    file, release = _installed_file(name), name.removeprefix("sae-lens:").rstrip("/")
    releases = _releases(file)
    if release not in releases:
        near = difflib.get_close_matches(release, list(releases), n=5, cutoff=0.4)
        has = f"; it has {', '.join(near)}" if near else ""
        raise NotFoundError(f"{name!r}: sae-lens lists no such release{has}")
    return list(_entries(release, releases[release]))


def _installed_file(name: str) -> Path:
    file = registry_file()
    if file is None:
        raise NotFoundError(
            f"SAE {name!r}: releases are listed by the package sae-lens, which is not installed: pip install sae-lens, or name the "
            "repository itself with hf:OWNER/REPO/PATH"
        )
    return file


def all_registered(file: Path) -> Iterator[Registered]:
    """Yield each SAE that a registry's file lists."""
    for release, values in _releases(file).items():
        yield from _entries(release, values)


def registry_file() -> Path | None:
    """Return the registry of the installed sae-lens, without importing it; None where it is not installed."""
    try:
        spec = find_spec("sae_lens")
    except (ImportError, ValueError):
        return None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((Path(folder) / _FILE for folder in folders if (Path(folder) / _FILE).is_file()), None)


@lru_cache(1)
def _releases(file: Path) -> dict[str, Any]:
    import yaml

    try:
        # A file of an installed package, and of megabytes: the limits for files of strangers are not for it.
        values = yaml.load(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise FormatError(f"{file}: the registry of sae-lens cannot be read ({error})") from error
    if not isinstance(values, dict) or not all(isinstance(v, dict) and "saes" in v for v in values.values()):
        raise FormatError(f"{file}: not laid out as the registry of sae-lens 4 and later; update sae-lens")
    return values


def _entries(release: str, values: dict[str, Any]) -> Iterator[Registered]:
    for sae in values.get("saes") or ():
        converter = values.get("conversion_func")
        yield Registered(
            release,
            str(sae["id"]),
            str(values["repo_id"]),
            _path(str(sae["path"]), converter),
            converter,
            dict(values.get("config_overrides") or {}),
            sae.get("norm_scaling_factor"),
        )


def _path(path: str, converter: str | None) -> str:
    """Return the file that a number or a name without its ending stands for: layers of cross-layer transcoders."""
    if converter == "mntss_clt_layer_transcoder":
        return f"W_enc_{path}.safetensors"
    return f"{path}.safetensors" if converter == "gemma_3" and "clt" in path else path


def as_registered(sae: SAE, name: str) -> SAE:
    """Apply what the registry says to the SAE that was read from its files. Raises FormatError for what we cannot apply."""
    entry = registered(name)
    overrides = dict(entry.overrides)
    if "normalize_activations" in overrides:
        sae = _normalized(sae, overrides.pop("normalize_activations"), name)
    named, _, adjustment = (sae.hookpoint or "").partition("|")
    if hook := overrides.pop("hook_name", None):
        named, sae = str(hook), _remarked(sae, f"hook_name: {hook}")
    if "prepend_bos" in overrides:
        sae = replace(sae, prepend_bos=bool(overrides.pop("prepend_bos")))
    if "model_from_pretrained_kwargs" in overrides:  # in place of those in the files
        loading = overrides.pop("model_from_pretrained_kwargs")
        is_centered, remarks = read_loading(loading, named or None, f"SAE {name!r}: sae-lens' registry")
        adjustment = "centered" if is_centered else ""
        for remark in (*([CENTERING] if is_centered else []), *remarks):
            sae = _remarked(sae, remark)
    sae = replace(sae, hookpoint=(f"{named}|{adjustment}" if adjustment else named) or None)
    if left := sorted({*overrides} - _HARMLESS):
        raise FormatError(f"SAE {name!r}: sae-lens' registry sets {', '.join(left)}, which is not supported")
    if entry.factor is not None and sae.scales_input:
        scale = entry.factor / sae.input_scale
        kept = tuple(remark for remark in sae.remarks if FOLDED not in remark)
        sae = rescaled(replace(sae, lacks_scale=False, remarks=kept), scale, scale)
    return sae


def _normalized(sae: SAE, kind: Any, name: str) -> SAE:
    """Return the SAE with a normalization in place of the one that its files name."""
    known = {None: "none", False: "none", "none": "none", "constant_norm_rescale": "constant_norm_rescale"}
    if not isinstance(kind, str | bool | None) or kind not in known:
        raise FormatError(
            f"SAE {name!r}: sae-lens' registry sets normalize_activations to {kind!r}, which is not supported; known are none, "
            "constant_norm_rescale"
        )
    if sae.lacks_scale or sae.input_scale != 1:
        raise FormatError(
            f"SAE {name!r}: sae-lens' registry sets normalize_activations to {kind!r}, and the files scale the input already"
        )
    changed = replace(sae, normalisation=known[kind], scales_input=False)
    return changed if known[kind] == sae.normalisation else _remarked(changed, f"normalize_activations: {known[kind]}")


def _remarked(sae: SAE, what: str) -> SAE:
    return replace(sae, remarks=(*sae.remarks, f"by sae-lens' registry: {what}"))
