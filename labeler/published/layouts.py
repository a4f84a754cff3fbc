"""The file names of each published layout, and the SAEs that a list of files holds.

An SAE is one file of weights, or the shards of one, with the configurations that its reader looks at. Some layouts have a
file for each layer of a set. Where only the content of a file tells its layout, it counts as an SAE of no layout yet.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
_INDEX = ".safetensors.index.json"
# Files of a training run beside an SAE, whose names end as weights do.
_NO_WEIGHTS = re.compile(
    r"(?:log_)?(?:feature_)?sparsity\.safetensors|(?:optimi[sz]er|scheduler|rng_state|training_args|trainer_state|"
    r"activations?_store|running_)[\w.\-]*"
)


@dataclass(frozen=True)
class Layout:
    """The names of one layout's files. `{stem}` and `{layer}` in a companion are those of its weights."""

    name: str
    weights: str  # the name of the file of weights, or its end in the repository, as a regular expression
    # What is read with it: in its folder, in a folder above (`../NAME`), or at the root of the repository (`/NAME`).
    companions: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # companions without which the file is not of this layout
    lacks: tuple[str, ...] = ()  # companions with which it is not


# In the order in which readers are asked (labeler/sae/formats). The last two are told by their content alone.
LAYOUTS = (
    Layout("temporal", r"latest_ckpt\.safetensors", ("conf.yaml",), needs=("conf.yaml",)),
    Layout("cross_layer", r"W_enc_(?P<layer>\d+)\.safetensors", ("W_dec_{layer}.safetensors", "config.yaml")),
    Layout("circuit_tracer", r"layer_(?P<layer>\d+)\.safetensors", ("config.yaml",)),
    Layout("gemma_scope_2", r"params_layer_(?P<layer>\d+)\.safetensors", ("config.json",)),
    Layout("gemma_scope_2", r"params\.safetensors", ("config.json",)),
    Layout("gemma_scope", r".+\.npz"),
    Layout("llama_scope", r".+\.safetensors", ("../hyperparams.json",), needs=("../hyperparams.json",)),
    Layout("sparsify", r"sae\.safetensors", ("cfg.json",)),
    Layout("saelens", r"sae_weights\.safetensors", ("cfg.json",), needs=("cfg.json",)),
    Layout("saelens", r"sae_weights\.safetensors", ("cfg.json",), lacks=("config.json",)),
    Layout("openmoss", r"sae_weights\.safetensors", ("config.json",), needs=("config.json",)),
    Layout("dictionary_learning", r"ae\.pt", ("config.json",)),
    Layout("hook_z", r".+\.pt", ("{stem}_cfg.json",), needs=("{stem}_cfg.json",)),
    Layout("qwen_scope", r".+\.sae\.pt", ("config.json", "/config.json")),
    Layout("", r".+\.safetensors", ("config.json", "cfg.json")),
    Layout("", r".+\.pth?", ("config.json", "{stem}_cfg.json")),
)


@dataclass(frozen=True)
class PublishedSAE:
    """One SAE by its files, as paths in a repository or below a folder."""

    layout: str  # empty where the content decides
    weights: tuple[str, ...]  # the shards of one SAE, else one file
    companions: tuple[str, ...]
    layer: int | None  # of a set, the layer that the file's name says
    folder: str  # the SAE's own folder; empty for the root
    path: str = ""  # what names it: its folder where no other SAE is there, else its file

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.weights, *self.companions)


def saes_among(files: Iterable[str]) -> list[PublishedSAE]:
    """The SAEs that these files hold, by their paths with slashes."""
    in_folder: defaultdict[str, set[str]] = defaultdict(set)
    for file in files:
        folder, _, name = file.rpartition("/")
        in_folder[folder].add(name)
    found = [sae for folder in sorted(in_folder, key=_natural) for sae in _in_folder(folder, in_folder)]
    alone = Counter(sae.folder for sae in found)
    return [_named(sae, alone[sae.folder] == 1 and (sae.folder != "" or len(found) == 1)) for sae in found]


def _named(sae: PublishedSAE, by_folder: bool) -> PublishedSAE:
    path = sae.folder if by_folder else sae.weights[0]
    return PublishedSAE(sae.layout, sae.weights, sae.companions, sae.layer, sae.folder, path)


def _in_folder(folder: str, in_folder: Mapping[str, Collection[str]]) -> Iterator[PublishedSAE]:
    """Yield the SAEs of a folder. Weights of no known name count only where there are none of a known one."""
    names = in_folder[folder]
    grouped = dict(_grouped(names))
    found = [
        _described(folder, name, shards, in_folder)
        for name, shards in sorted(grouped.items(), key=lambda item: _natural(item[0]))
    ]
    known = [sae for sae in found if sae.layout]
    yield from known or found


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort `layer_2` before `layer_10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _grouped(names: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each file of weights by its name; shards with an index under the name that the whole would have."""
    weights = {name for name in names if name.endswith(SUFFIXES) and not _NO_WEIGHTS.fullmatch(name)}
    for index in sorted(name for name in names if name.endswith(_INDEX)):
        stem = index.removesuffix(_INDEX)
        tensors = sorted(name for name in weights if name.endswith(".safetensors"))
        shards = [name for name in tensors if name.startswith(stem)] or tensors
        weights -= set(shards)
        if shards:
            yield f"{stem}.safetensors", (*shards, index)
    for name in weights:
        yield name, (name,)


def _described(
    folder: str, name: str, shards: tuple[str, ...], in_folder: Mapping[str, Collection[str]]
) -> PublishedSAE:
    for layout in LAYOUTS:
        match = re.fullmatch(layout.weights, name)
        if match is None:
            continue
        filled = {"stem": name.rpartition(".")[0], "layer": match.groupdict().get("layer")}

        def there(companion: str, filled: Mapping[str, str | None] = filled) -> str | None:
            return _there(folder, companion.format(**filled), in_folder)

        if not all(map(there, layout.needs)) or any(map(there, layout.lacks)):
            continue
        companions = [path for companion in layout.companions if (path := there(companion))]
        companions += [_join(folder, index) for index in shards if index.endswith(_INDEX)]
        return PublishedSAE(
            layout.name,
            tuple(_join(folder, shard) for shard in shards if not shard.endswith(_INDEX)),
            tuple(dict.fromkeys(companions)),
            None if filled["layer"] is None else int(filled["layer"]),
            folder.rpartition("/")[0] if layout.name == "llama_scope" else folder,
        )
    raise AssertionError(f"{name} ends in none of {SUFFIXES}")


def _there(folder: str, companion: str, in_folder: Mapping[str, Collection[str]]) -> str | None:
    """Return the path of a companion, where it is among the files."""
    if companion.startswith("/"):
        folder, companion = "", companion[1:]
    while companion.startswith("../"):
        if not folder:
            return None
        folder, companion = folder.rpartition("/")[0], companion[3:]
    return _join(folder, companion) if companion in in_folder.get(folder, ()) else None


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def at(saes: Sequence[PublishedSAE], path: str) -> list[PublishedSAE]:
    """The SAEs that a path means: the one of this file or folder, else those in this very folder, else all below it."""
    path = path.rstrip("/")
    exact = [sae for sae in saes if path and path in (sae.path, *sae.weights)]
    direct = [sae for sae in saes if sae.folder == path]
    below = [sae for sae in saes if not path or sae.weights[0].startswith(f"{path}/")]
    return exact or direct or below


def is_set(saes: Sequence[PublishedSAE]) -> bool:
    """Return True for the files of one folder that are layers of one set, such as a cross-layer transcoder."""
    layers = {sae.layer for sae in saes}
    alike = len({(sae.folder, sae.layout) for sae in saes}) == 1
    return len(saes) > 1 and alike and None not in layers and len(layers) == len(saes)


def fitting(names: Iterable[str], hookpoint: str) -> list[str]:
    """The names, of folders or files, after which a hookpoint or the end of it is called."""
    place = hookpoint.rpartition(":")[0] if hookpoint.endswith((":input", ":output")) else hookpoint
    return [name for name in names if f".{place}".endswith(f".{name}")]
