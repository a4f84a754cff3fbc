"""Tell from the names of files which SAEs a folder or a repository holds, and which files each of them needs.

No weights are read: names say the layout in which people publish. What a file holds, and whether it can be read, is
decided by its format when it is loaded (labeler/sae/formats).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from labeler.sae.places_in_names import gemma_scope_2_place, gemma_scope_place, layer_of, spelled

# File name -> format. The first pattern that fits, in this order; whether its companions are there decides the rest.
_BY_NAME: tuple[tuple[str, str], ...] = (
    (r"params\.npz", "gemma_scope"),
    (r"params(_layer_\d+)?\.safetensors", "gemma_scope_2"),
    (r"sae\.safetensors", "sparsify"),
    (r"sae_weights\.safetensors", "saelens"),
    (r"W_enc_\d+\.safetensors", "cross_layer"),
    (r"layer_\d+\.safetensors", "circuit_tracer"),
    (r"layer\d+\.sae\.pt", "qwen_scope"),
    (r"ae\.pt", "dictionary_learning"),
    (r"latest_ckpt\.safetensors", "temporal"),
)
_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
# Weights that are no SAE, or part of one that another file names.
_OTHERS = re.compile(
    r"sparsity\.safetensors|W_dec_\d+\.safetensors|(optimizer|scheduler|training_args|rng_state|state|trainer)\w*\.(pt|pth)"
    r"|activation_?\w*\.(pt|safetensors)|(pytorch_)?model[-\w]*\.(safetensors|pt)"
)
_SHARD = re.compile(r"(.+)-\d+-of-\d+\.safetensors")
_SETS = re.compile(r"(?:W_enc|params_layer|layer)_(\d+)\.safetensors")
_CONFIGURATIONS = ("cfg.json", "config.json", "config.yaml", "conf.yaml")


@dataclass(frozen=True)
class ListedSae:
    """An SAE as the names of its files say."""

    weights: str  # path of its weights, or of its first shard
    files: tuple[str, ...]  # all that reading it needs, the weights among them
    format: str | None  # None: its tensors will tell
    configurations: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> str:
        return _folder(self.weights)

    @property
    def layer_in_set(self) -> int | None:
        """The number of a layer whose files are layers of one set."""
        match = _SETS.fullmatch(PurePosixPath(self.weights).name)
        return None if match is None else int(match[1])


def group(files: Iterable[str]) -> list[ListedSae]:
    """Return the SAEs whose files have these paths, in order of their paths."""
    there = set(files)
    indices = {file for file in there if file.endswith(".safetensors.index.json")}
    saes, seen = [], set[str]()
    for file in sorted(there, key=_numbered):
        name, folder = PurePosixPath(file).name, _folder(file)
        if PurePosixPath(file).suffix not in _SUFFIXES:
            continue
        if shard := _SHARD.fullmatch(name):
            index = _join(folder, f"{shard[1]}.safetensors.index.json")
            if index not in indices or index in seen:
                continue
            seen.add(index)
            shards = [
                f
                for f in there
                if _folder(f) == folder and (m := _SHARD.fullmatch(PurePosixPath(f).name)) and m[1] == shard[1]
            ]
            saes.append(_listed(file, there, (index, *sorted(shards))))
        elif not _OTHERS.fullmatch(name):
            saes.append(_listed(file, there))
    # Beside weights in a layout that we know, other files are what a training run left.
    known = {sae.folder for sae in saes if sae.format is not None}
    return [sae for sae in saes if sae.format is not None or sae.folder not in known]


def _listed(weights: str, there: set[str], more: tuple[str, ...] = ()) -> ListedSae:
    name, folder = PurePosixPath(weights).name, _folder(weights)
    stem = name.rpartition(".")[0]
    beside = [_join(folder, c) for c in (*_CONFIGURATIONS, f"{stem}_cfg.json")]
    if folder.rpartition("/")[2] == "checkpoints" or folder == "checkpoints":
        beside.append(_join(_folder(folder), "hyperparams.json"))
    if layer := re.fullmatch(r"W_enc_(\d+)", stem):
        more = (*more, _join(folder, f"W_dec_{layer[1]}.safetensors"))
    configurations = tuple(path for path in beside if path in there)
    files = dict.fromkeys((weights, *(path for path in more if path in there), *configurations))
    return ListedSae(weights, tuple(files), _format(name, stem, configurations), configurations)


def _format(name: str, stem: str, configurations: Sequence[str]) -> str | None:
    beside = {PurePosixPath(path).name for path in configurations}
    found = next((form for pattern, form in _BY_NAME if re.fullmatch(pattern, name)), None)
    if found == "saelens" and "cfg.json" not in beside and "config.json" in beside:
        return "openmoss"
    if found is None and "hyperparams.json" in beside:
        return "llama_scope"
    return "hook_z" if found is None and f"{stem}_cfg.json" in beside else found


def place_of(sae: ListedSae, origin: str, configuration: dict[str, Any] | None) -> str | None:
    """Return the place that an SAE reads, from its configuration or else from its path; None where neither says it.

    `origin` is repository and path, such as `google/gemma-scope-2b-pt-mlp/layer_12/width_16k/average_l0_82/params.npz`.
    """
    said = _flat(configuration or {})
    layer = layer_of(origin)
    if sae.format == "sparsify":
        folder = PurePosixPath(sae.folder)
        return folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name or None
    if place := spelled(said.get("hf_hook_point_in") or said.get("hf_hook_name")):
        return place
    for key in ("hook_point_in", "hook_name", "hook_point", "act_name"):
        if isinstance(said.get(key), str) and "{" not in said[key]:
            return str(said[key])
    if (hook := said.get("feature_input_hook")) and sae.layer_in_set is not None:
        return f"blocks.{sae.layer_in_set}.{hook}"
    if sae.format == "dictionary_learning" and layer is not None:
        match = re.search(
            r"(resid_post|resid_pre|mlp_out|attn_out)_layer_\d+", str(said.get("submodule_name") or origin)
        )
        return f"blocks.{said.get('layer', layer)}.hook_{match[1]}" if match else None
    if sae.format == "gemma_scope":
        return gemma_scope_place(origin)[0]
    if sae.format == "gemma_scope_2":
        return gemma_scope_2_place(origin)[0]
    return f"blocks.{layer}.hook_resid_post" if sae.format == "qwen_scope" and layer is not None else None


def width_of(origin: str, configuration: dict[str, Any] | None) -> int | None:
    """Return the number of features, as the configuration or the path says."""
    said = _flat(configuration or {})
    for key in ("d_sae", "num_latents", "dict_size", "width", "d_transcoder"):
        if isinstance(said.get(key), int):
            return int(said[key])
    d, times = said.get("d_in") or said.get("d_model") or said.get("activation_dim"), said.get("expansion_factor")
    if isinstance(d, int) and isinstance(times, int | float):
        return int(d * times)
    match = re.search(r"width[_-](?:2pow(\d+)|(\d+)(k|m))", origin, re.IGNORECASE) or re.search(
        r"-W()(\d+)(K)-", origin
    )
    if match is None:
        return None
    if match[1]:
        return 1 << int(match[1])
    # 16k is 16,384; the names of 1m and the like are powers of two as well.
    return int(match[2]) << (10 if match[3].lower() == "k" else 20)


def l0_of(origin: str, configuration: dict[str, Any] | None) -> str | None:
    """Return the mean number of firing features per token that the configuration or the path names."""
    said = _flat(configuration or {})
    if isinstance(said.get("k"), int):
        return str(said["k"])
    if isinstance(said.get("l0"), int | float):
        return f"{said['l0']:g}"
    found = re.findall(r"(?:^|[_/-])[lL]0[_-](\d+|small|medium|big)(?=[_/.-]|$)", origin)
    return found[-1] if found else None


def why_refused(sae: ListedSae, configuration: dict[str, Any] | None) -> str | None:
    """Return why an SAE cannot be read, where its names or its configuration say so already."""
    if sae.format == "temporal":
        return "temporal: its code of a token attends to the tokens before it"
    if sae.format == "saelens" and (configuration or {}).get("architecture") == "batchtopk":
        return "a training checkpoint: save it for inference with SAELens"
    if sae.format in ("saelens", "sparsify", "dictionary_learning", "openmoss") and not sae.configurations:
        return "no configuration lies beside it"
    return None


def _flat(configuration: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration and of the objects in it that describe place and size."""
    flat = dict(configuration)
    for key in ("metadata", "trainer"):
        if isinstance(configuration.get(key), dict):
            flat |= configuration[key]
    return flat


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _numbered(path: str) -> list[tuple[int, str]]:
    """Sort layer_2 before layer_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]
