"""List the SAEs of a repository or folder: how to name each, where it reads, its width and L0, and what cannot be read.

Names come first; then small configurations, and the headers of `.safetensors` files. Weights are never read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from labeler.errors import FormatError, LabelerError, NotFoundError
from labeler.files import SMALL, parse_yaml, read_json, read_small
from labeler.published import places
from labeler.published.headers import Shapes
from labeler.published.hub import TORCH, shapes_at
from labeler.published.layouts import SUFFIXES, PublishedSAE, at, is_set, saes_among
from labeler.published.names import l0_in, origin_of, width_in
from labeler.published.refusals import refusal

_CONFIGS = (".json", ".yaml", ".yml")
_BIASES = ("b_enc", "encoder.bias", "encoder_linear.bias", "latent_bias", "b_E", "threshold", "b_gate")
_WIDTHS = ("d_sae", "num_latents", "width", "dict_size")
# Endings of other files that hold weights.
_UNREAD = re.compile(r".+(\.bin|\.ckpt|\.pkl|\.pickle|\.h5|\.msgpack|\.gguf)")
_NORM = "dataset_average_activation_norm"
_OF_NO_LAYOUT = "its tensors are those of no layout that is read"
_AT_ONCE = 8  # headers asked for


class Files(Protocol):
    """The files of a repository or folder, by their paths with slashes."""

    @property
    def sizes(self) -> Mapping[str, int | None]: ...

    def fetch(self, files: Sequence[str], what: str) -> Path: ...

    def shapes(self, file: str, what: str) -> Shapes: ...


@dataclass(frozen=True)
class Folder:
    """The files of a folder on this machine."""

    folder: Path
    sizes: Mapping[str, int | None]

    def fetch(self, files: Sequence[str], what: str) -> Path:
        return self.folder

    def shapes(self, file: str, what: str) -> Shapes:
        return shapes_at(self.folder / file)


@dataclass(frozen=True)
class ListedSAE:
    """One SAE as a user meets it. What is not known is None or empty."""

    sae: str  # as `--sae` takes it
    place: str | None  # the hookpoint that it reads
    n_features: int | None
    width: str  # as its name says it
    l0: str  # as its name or configuration says it
    format: str
    layer: int | None
    refused: str = ""  # why it cannot be read


@dataclass(frozen=True)
class Listing:
    """What a repository or folder holds: the SAEs that can be read, and by reason what cannot."""

    saes: tuple[ListedSAE, ...]
    n_found: int  # SAEs with these words in their names
    n_looked_at: int  # the first of them, of which `saes` are those that can be read
    refused: Mapping[str, tuple[str, ...]]  # reason -> files
    sets: Mapping[str, tuple[int, ...]]  # as `--sae` takes a set -> its layers


def list_saes(
    files: Files,
    spelled: str,
    origin: str,
    path: str = "",
    *,
    what: str,
    words: Collection[str] = (),
    most: int = 50,
    ids: Mapping[str, str] | None = None,
) -> Listing:
    """The first `most` SAEs at a path whose names have all of the words.

    `spelled` has a `{}` for the path of an SAE, as `--sae` takes it; `origin` is the repository's name or the folder's. With `ids`,
    a release's names for paths, these are listed and spelled.
    """
    everything = saes_among(files.sizes)
    if path and not any(file == path or file.startswith(f"{path}/") for file in files.sizes):
        all_of_it = spelled_in(spelled, "")
        raise NotFoundError(f"{what}: no such file or folder as {path} there; `labeler saes {all_of_it}` lists all")
    under = at(everything, path) if ids is None else _of_release(everything, ids)
    found = [sae for sae in under if all(word.lower() in f"{origin}/{sae.path}".lower() for word in words)]
    shown = found[:most]
    configs = sorted({file for sae in shown for file in sae.companions if _is_small_config(file, files.sizes)})
    folder = files.fetch(configs, what) if configs else None

    def described(sae: PublishedSAE) -> ListedSAE:
        return _described(files, sae, folder, spelled, origin, what, scaled_elsewhere=ids is not None)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = list(pool.map(described, shown))
    refused: dict[str, list[str]] = {}
    for row in rows:
        if row.refused:
            refused.setdefault(row.refused, []).append(row.sae)
    listed = {sae.path for sae in under}
    if gone := [spelled_in(spelled, sae_id) for sae_id in ids or () if sae_id not in listed]:
        refused["the repository does not hold its files"] = gone
    for file in sorted(files.sizes) if ids is None else ():
        below = not path or file.startswith(f"{path}/")
        if below and all(word.lower() in file.lower() for word in words) and (match := _UNREAD.fullmatch(file)):
            reason = f"ends in {match[1]}; weights that are read end in {', '.join(SUFFIXES)}"
            refused.setdefault(reason, []).append(file)
    return Listing(
        tuple(row for row in rows if not row.refused),
        len(found),
        len(shown),
        {reason: tuple(names) for reason, names in refused.items()},
        _sets(found, spelled) if ids is None else {},
    )


def _of_release(saes: Sequence[PublishedSAE], ids: Mapping[str, str]) -> list[PublishedSAE]:
    """The SAEs at the paths of a release, called by their ids."""
    found = {sae_id: at(saes, path) for sae_id, path in ids.items()}
    return [replace(there[0], path=sae_id) for sae_id, there in found.items() if len(there) == 1]


def _is_small_config(file: str, sizes: Mapping[str, int | None]) -> bool:
    return file.endswith(_CONFIGS) and (sizes.get(file) or 0) <= SMALL


def spelled_in(spelling: str, path: str) -> str:
    """Put a path into `hf:OWNER/REPO{}@REVISION` or `FOLDER{}`."""
    return spelling.replace("{}", f"/{path}" if path else "")


def _sets(saes: Sequence[PublishedSAE], spelled: str) -> Shapes:
    by_folder: dict[str, list[PublishedSAE]] = {}
    for sae in saes:
        by_folder.setdefault(sae.folder, []).append(sae)
    return {
        spelled_in(spelled, folder): tuple(sorted(sae.layer for sae in found if sae.layer is not None))
        for folder, found in by_folder.items()
        if is_set(found)
    }


def _described(
    files: Files,
    sae: PublishedSAE,
    folder: Path | None,
    spelled: str,
    origin: str,
    what: str,
    *,
    scaled_elsewhere: bool,
) -> ListedSAE:
    name = spelled_in(spelled, sae.path)
    where = f"{origin}/{sae.weights[0]}"
    said = f"{origin}/{sae.path}"
    row = ListedSAE(
        name, None, None, width_in(said) or width_in(where), l0_in(said) or l0_in(where), sae.layout, sae.layer
    )
    try:
        config = _config(sae, folder, files.sizes)
        if refused := refusal(sae.layout, config):
            return replace(row, refused=refused)
        config = config or {}
        shapes: Shapes = {}
        n_features = _stated_width(config)
        has_header = sae.weights[0].endswith((".safetensors", ".npz", *TORCH))
        if has_header and (n_features is None or sae.layout in ("", "openmoss", "saelens", "gemma_scope")):
            shapes = files.shapes(sae.weights[0], what)
            n_features = _width(shapes, sae.layer) or n_features
        layout = sae.layout or _told_by(shapes, sae, config)
        if not layout and shapes:
            return replace(row, refused=_OF_NO_LAYOUT)
        if layout == "gemma_scope" and shapes and "threshold" not in shapes:
            return replace(row, refused=_OF_NO_LAYOUT)
        if layout != sae.layout and (refused := refusal(layout, config)):
            return replace(row, refused=refused)
        if not scaled_elsewhere and (refused := _lacks_norm(layout, config, shapes)):
            return replace(row, refused=refused)
        l0 = row.l0 or _text(config.get("l0")) or _text(config.get("k"))
        place = _place(layout, sae, where, config)
        return replace(row, place=place, n_features=n_features, l0=l0, format=layout)
    except (LabelerError, LookupError, TypeError, ValueError, AttributeError) as error:
        # A stranger's configuration may hold values of any kind.
        return replace(row, refused=_first_line(error))


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0][:200] if isinstance(error, LabelerError) else type(error).__name__
    return (
        text
        if isinstance(error, LabelerError)
        else f"its configuration holds other values than its layout has ({text})"
    )


def _config(sae: PublishedSAE, folder: Path | None, sizes: Mapping[str, int | None]) -> dict[str, Any] | None:
    """The first configuration of the SAE that is there."""
    for file in sae.companions:
        if folder is None or not _is_small_config(file, sizes) or file.endswith(".index.json"):
            continue
        path = folder / file
        value = read_json(path) if path.suffix == ".json" else parse_yaml(read_small(path).decode(), str(path))
        if not isinstance(value, dict):
            raise FormatError(f"{file}: expected an object, found {type(value).__name__}")
        return value
    return None


def _stated_width(config: Mapping[str, Any]) -> int | None:
    trainer = config.get("trainer")
    for values in (config, trainer if isinstance(trainer, dict) else {}):
        for key in _WIDTHS:
            if type(value := values.get(key)) is int and value > 0:
                return value
    return None


def _width(shapes: Shapes, layer: int | None) -> int | None:
    for name in (*_BIASES, f"b_enc_{layer}"):
        if name in shapes and len(shapes[name]) >= 1:
            return shapes[name][-1]
    return None


def _told_by(shapes: Shapes, sae: PublishedSAE, config: Mapping[str, Any]) -> str:
    """The layout of a file of any name, by its tensors."""
    names = set(shapes)
    linear = {"encoder.weight", "decoder.weight"}
    if {"pre_bias", "latent_bias"} <= names:
        return "openai"
    if {"encoder_linear.weight", "decoder_linear.weight"} <= names:
        return "goodfire"
    if sae.weights[0].endswith(TORCH):
        if "trainer" in config and names & {"encoder.weight", "W_enc"}:
            return "dictionary_learning"
        return "qresearch" if names == {*linear, "encoder.bias", "decoder.bias"} else ""
    if any(name.startswith("attn_layers.") for name in names):
        return "temporal"
    if {"w_enc", "w_dec", "threshold"} <= names:
        return "gemma_scope_2"
    configured = any(file.rpartition("/")[2] == "config.json" for file in sae.companions)
    return "openmoss" if configured and (linear <= names or {"W_E", "W_D"} <= names) else ""


def _lacks_norm(layout: str, config: Mapping[str, Any], shapes: Mapping[str, object]) -> str:
    scaled = layout in ("openmoss", "llama_scope") and config.get("norm_activation") == "dataset-wise"
    if not scaled or config.get(_NORM) or any(name.startswith(_NORM) for name in shapes):
        return ""
    return "its files do not give the norm by which its input is scaled: name it as sae-lens:RELEASE/ID"


def _text(value: object) -> str:
    return str(value) if isinstance(value, str) or type(value) is int else ""


def _place(layout: str, sae: PublishedSAE, origin: str, config: Mapping[str, Any]) -> str | None:
    """The place that the SAE reads, as its reader will say it."""
    file = sae.weights[0].rpartition("/")[2]
    if layout == "gemma_scope":
        return places.gemma_scope(origin)[0]
    if layout == "gemma_scope_2":
        return (
            places.gemma_scope_2(origin, config)[0] if sae.layer is None else _place_in_set(sae.layer, origin, config)
        )
    if layout in ("circuit_tracer", "cross_layer"):
        hooks = places.SET_HOOKS if layout == "circuit_tracer" and not config else {**places.CLT_HOOKS, **config}
        return places.circuit_tracer(sae.layer, hooks)[0]
    if layout in ("llama_scope", "openmoss"):
        place = places.openmoss(config)[0]
        return None if place is None else str(place)
    if layout == "sparsify":
        return places.sparsify(sae.folder) if sae.folder else None
    if layout == "saelens":
        metadata = config.get("metadata")
        return places.saelens({**config, **(metadata if isinstance(metadata, dict) else {})})
    if layout == "dictionary_learning":
        trainer = config.get("trainer")
        return places.dictionary_learning(trainer if isinstance(trainer, dict) else {}, origin)
    if layout == "hook_z":
        return str(config["act_name"]) if "act_name" in config else None
    if layout == "qwen_scope":
        return places.qwen_scope(file, config)
    return None if layout in ("", "openai") else places.residual(file.rpartition(".")[0])


def _place_in_set(number: int, origin: str, config: Mapping[str, Any]) -> str:
    """The place of one file of a CLT or a crosscoder of Gemma Scope 2."""
    is_clt = places.is_gemma_scope_2_clt(origin, config)
    layers = next((layers for layers in places.stated_layers(config, origin.rpartition("/")[0]) if layers), ())
    template = places.gemma_scope_2_template(config, "in", is_clt)
    return template.replace("{}", str(layers[number] if number < len(layers) else number))


def folder_origin(folder: Path) -> str:
    """The name of a folder as readers see it: the repository where it is a copy of one, else its path."""
    return origin_of(folder / "x").rpartition("/")[0]
