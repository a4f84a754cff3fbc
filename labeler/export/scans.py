"""Find the SAEs of an attribution graph by the name that circuit-tracer gives their set: its `scan`.

A graph says `"scan": "mntss/clt-gemma-2-2b-2.5M"`: the repository of the transcoders, with `//FOLDER` where they lie in
one and `@REVISION` where one was given. An SAE is of this set if its own files say so (`scan` in config.yaml), or if
they come from this repository and folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labeler.errors import InputError
from labeler.export.graph import layer_of
from labeler.names import sae_name
from labeler.places import spelled_hookpoint

# Short names of circuit-tracer, and its sets whose weights lie in other repositories (circuit-tracer 0.5).
_SHORT = {"gemma": "mwhanna/gemma-scope-transcoders", "llama": "mntss/transcoder-Llama-3.2-1B"}
_WEIGHTS = {
    "mwhanna/gemma-scope-transcoders": "google/gemma-scope-2b-pt-transcoders",
    "mntss/gemma-scope-transcoders": "google/gemma-scope-2b-pt-transcoders",
}
_GEMMA_SCOPE_2 = re.compile(r"mwhanna/(gemma-scope-2-.+)")


@dataclass(frozen=True)
class KnownSae:
    """An SAE in a database or service, as far as its evidence says which set it belongs to."""

    id: int
    hookpoint: str
    path: str
    scan: str | None = None
    layer: int | None = None  # that its features read, where its files say it

    @classmethod
    def of(cls, sae_id: int, manifest: Mapping[str, Any]) -> KnownSae:
        sae = manifest["sae"]
        hookpoint = spelled_hookpoint(manifest["hookpoint"], manifest["reads"])
        return cls(sae_id, hookpoint, str(sae["path"]), sae.get("scan"), sae.get("layer"))

    def is_of(self, scan: str) -> bool:
        return self.scan == scan or any(self._comes_from(*place) for place in _places(scan))

    def _comes_from(self, repository: str, folder: str) -> bool:
        """Say whether the path goes through the repository's own name, which downloads keep, and then the folder."""
        wanted = [repository.rpartition("/")[2], *folder.split("/")] if folder else [repository.rpartition("/")[2]]
        # Gemma Scope 2 has a folder for each layer: layer_17_width_16k_l0_small of the set width_16k_l0_small.
        paths = (re.sub(r"(?<=/)layer_\d+_", "", path).split("/") for path in (self.path, sae_name(self.path)))
        return any(wanted == parts[i : i + len(wanted)] for parts in paths for i in range(len(parts)))


def scans_of(graph: Mapping[str, Any]) -> list[str]:
    """Return the names of the sets whose features are in a graph; none where it does not say."""
    metadata = graph.get("metadata")
    found = [metadata.get("scan"), *_listed(metadata.get("transcoder_list"))] if isinstance(metadata, dict) else []
    return list(dict.fromkeys(scan for scan in found if isinstance(scan, str) and scan))


def saes_by_layer(scans: Iterable[str], saes: Iterable[KnownSae]) -> dict[int, KnownSae]:
    """Return the SAE of each layer of these sets. Raises InputError where two SAEs are of one layer."""
    scans, chosen = list(scans), dict[int, KnownSae]()
    for sae in saes:
        if not any(sae.is_of(scan) for scan in scans):
            continue
        layer = layer_of(sae.hookpoint) if sae.layer is None else sae.layer
        if layer in chosen:
            raise InputError(
                f"two SAEs of layer {layer} are of {_named(scans)}: {chosen[layer].id} and {sae.id}; say whose labels are "
                f"meant, with --labels {layer}=SET for each layer"
            )
        chosen[layer] = sae
    return chosen


def none_found(scans: Iterable[str]) -> InputError:
    scans = list(scans)
    if not scans:
        return InputError("the graph does not say whose features it has (metadata.scan): give --labels LAYER=SET")
    return InputError(
        f"no SAE here is of {_named(scans)}, which the graph says its features are of: give --labels LAYER=SET for each "
        "layer; `labeler sets` lists what there is"
    )


def _named(scans: Iterable[str]) -> str:
    return ", ".join(repr(scan[:80]) for scan in list(scans)[:4])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _places(scan: str) -> Iterable[tuple[str, str]]:
    """Yield each (repository, folder) in which the weights of a set can lie."""
    repository, _, folder = _SHORT.get(scan, scan).partition("@")[0].partition("//")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is None:
        return
    yield repository, folder
    if (weights := _WEIGHTS.get(repository)) is not None:
        yield weights, folder
    if (moved := _GEMMA_SCOPE_2.fullmatch(repository)) is not None:
        yield f"google/{moved[1]}", folder
