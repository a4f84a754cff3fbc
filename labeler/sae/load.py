"""An SAE by its name: where its files lie, and which format reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from labeler.bundled import PATHS
from labeler.errors import FormatError, InputError, LabelerError, NotFoundError
from labeler.files import check_folder, check_regular, read_json
from labeler.published.layouts import SUFFIXES, fitting
from labeler.recipe import check_dtype
from labeler.sae.files import DAMAGED, check_finite, checked, listed
from labeler.sae.formats import FORMATS, Format, layer_in_set
from labeler.sae.hub import download, download_layers, is_set_on_hub, wanted_layers
from labeler.sae.matrices import moved
from labeler.sae.registry import as_registered
from labeler.sae.sae import SAE, Selection, Source
from labeler.sae.weights import Weights

_LONGEST_ERROR = 1_000  # characters: path, problem and remedy, and some 200 of each of two values from a file
Found = tuple[Weights, Format]
_MOST_FILES = 20_000  # looked at in a folder, before the user is asked for one closer to the SAE


def load_sae(name: str, *, hookpoint: str | None = None, dtype: str = "float32", device: str = "cpu") -> SAE:
    """The SAE at a path, or at `hf:REPO/PATH@REVISION` or `sae-lens:RELEASE/ID`, or the demo's by its name, ready to encode.

    `hookpoint` chooses where a folder holds several. Raises NotFoundError, FormatError or InputError.
    """
    path, revision = download(name, hookpoint) if _is_on_hub(name) else (_local(name), None)
    with _named(path):
        weights, form = _the_one(path, hookpoint)
        return _loaded(weights, form, name, revision, dtype, device)


def load_layers(
    name: str, layers: Collection[int] | None = None, *, dtype: str = "float32", device: str = "cpu"
) -> list[SAE]:
    """The SAEs of a set that has a file for each layer, such as a cross-layer transcoder, in the order of layers.

    All of them, or those of `layers`. Raises NotFoundError, FormatError or InputError; the latter also for an SAE that is no
    such set.
    """
    path, revision = download_layers(name, layers) if _is_on_hub(name) else (_local(name), None)
    with _named(path):
        found = _set_at(path)
        wanted = wanted_layers(name, found, layers)
        return [_loaded(*found[layer], name, revision, dtype, device) for layer in wanted]


def is_set_of_layers(name: str) -> bool:
    """Say whether a name is of a folder with a file for each of several layers of one set."""
    if _is_on_hub(name):
        return is_set_on_hub(name)
    path = _local(name)
    with _named(path):
        return len(_set_at(path)) > 1


def _is_on_hub(name: str) -> bool:
    return name not in PATHS and name.startswith(("hf:", "sae-lens:"))


def _local(name: str) -> Path:
    path = PATHS[name] if name in PATHS else Path(name).expanduser()
    if not path.exists():
        raise NotFoundError(
            f"SAE {name!r}: no such file or folder; give a path, `hf:REPO/PATH` or `sae-lens:RELEASE/ID`"
        )
    return path


def _loaded(weights: Weights, form: Format, name: str, revision: str | None, dtype: str, device: str) -> SAE:
    computed = getattr(torch, check_dtype(dtype))
    sae = checked(form.read(weights))
    if name.startswith("sae-lens:"):
        sae = as_registered(sae, name)
    if sae.lacks_scale:
        raise FormatError(
            f"SAE {name!r}: its input is scaled by the data set's average norm, and its files do not give that norm: name it as "
            "`sae-lens:RELEASE/ID`, whose registry has the factor, or write dataset_average_activation_norm with `in` and `out` into "
            "its configuration"
        )
    if revision is not None:
        sae = replace(sae, source=replace(sae.source, revision=revision))
    if name in PATHS:
        sae = replace(sae, source=replace(sae.source, path=Path(name)))
    return to(sae, computed, device)


def _set_at(path: Path) -> dict[int, Found]:
    """The files of a set in this very folder, by layer; none where it holds anything else."""
    if not path.is_dir():
        return {}
    check_folder(path)
    found = list(_saes_in(path))
    numbered = {layer_in_set(weights, form): (weights, form) for weights, form in found}
    alike = len({form.NAME for _, form in found}) == 1 and len(numbered) == len(found)
    return {n: pair for n, pair in numbered.items() if n is not None} if alike and None not in numbered else {}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever a reader makes of a stranger's values, of other kinds and shapes than it takes, into a FormatError."""
    try:
        yield
    except LabelerError as error:
        if len(str(error)) <= _LONGEST_ERROR:
            raise
        raise type(error)(_shortened(str(error))) from error
    except DAMAGED as error:
        cause = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise FormatError(
            f"SAE {path}: its configuration or tensors do not fit the layout that its files have ({cause}); compare them with "
            "those of its publisher"
        ) from error


def _shortened(message: str) -> str:
    """Return a message without the middle of the long values that a stranger's file has put into it."""
    kept = _LONGEST_ERROR // 2
    return f"{message[:kept]} … {message[-kept:]}"


def _the_one(path: Path, hookpoint: str | None) -> Found:
    if not path.is_dir():
        check_regular(path)
        if path.suffix not in SUFFIXES:
            raise FormatError(f"SAE {path}: not a file that we know; weights end in {', '.join(SUFFIXES)}")
        weights = Weights(path)
        return weights, _format_of(weights)
    check_folder(path)
    found = list(_saes_in(path)) or _saes_below(path)
    if not found:
        raise FormatError(
            f"SAE {path}: no SAE here nor in folders below; looked for files that end in {', '.join(SUFFIXES)} in the layouts of "
            f"{', '.join(form.NAME for form in FORMATS)}"
        )
    return _chosen(path, found, hookpoint)


def _saes_in(folder: Path) -> Iterator[Found]:
    """Each SAE whose weights lie in this very folder."""
    for weights in _weights_in(folder):
        form = next((form for form in FORMATS if form.recognizes(weights)), None)
        if form is not None:
            yield weights, form


def _weights_in(folder: Path) -> Iterator[Weights]:
    shards = _shards(folder)
    if shards:
        yield Weights(shards[0], tuple(shards[1:]))
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and path.is_file() and path not in shards and path.name != "sparsity.safetensors":
            yield Weights(path)


def _shards(folder: Path) -> list[Path]:
    """The files that an index beside them names, in order; none where there is no index."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        values = read_json(index)
        named = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(named, dict):
            raise FormatError(f"SAE {folder}: {index.name} has no object `weight_map`")
        paths = [folder / name for name in sorted(set(map(str, named.values())))]
        if other := [path.name for path in paths if path.suffix not in SUFFIXES]:
            raise FormatError(f"SAE {folder}: {index.name} names files that hold no weights: {listed(other)}")
        if missing := [path.name for path in paths if path.parent != folder or not path.is_file()]:
            raise NotFoundError(f"SAE {folder}: {index.name} names files that are not there: {listed(missing)}")
        return paths
    return []


def _saes_below(folder: Path) -> list[Found]:
    found: list[Found] = []
    folders: set[Path] = set()
    for n, path in enumerate(folder.rglob("*")):
        if n > _MOST_FILES:
            raise InputError(f"SAE {folder}: holds over {_MOST_FILES:,} files; give the folder of the SAE itself")
        if path.suffix in SUFFIXES and path.is_file():
            folders.add(path.parent)
    for below in sorted(folders):
        found += _saes_in(below)
    return found


def _chosen(folder: Path, found: Sequence[Found], hookpoint: str | None) -> Found:
    """The only SAE, or the one whose folder or file is called after the hookpoint or the end of it."""
    if len(found) == 1:
        return found[0]
    alone = Counter(weights.path.parent for weights, _ in found)
    names = {_name(folder, weights.path, alone): (weights, form) for weights, form in found}
    if hookpoint is not None:
        fits = fitting(names, hookpoint)
        if len(fits) == 1:
            return names[fits[0]]
    listed = ", ".join(sorted(names)[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    says = f"holds several SAEs ({listed})" if hookpoint is None else f"holds no SAE of {hookpoint!r}, but of {listed}"
    raise InputError(f"SAE {folder}: {says}; choose one with --hookpoint, or give its folder or file")


def _name(folder: Path, path: Path, alone: Counter[Path]) -> str:
    """The folder of an SAE that lies there by itself, else its file."""
    named = path.parent if alone[path.parent] == 1 and path.parent != folder else path
    return named.relative_to(folder).as_posix()


def _format_of(weights: Weights) -> Format:
    form = next((form for form in FORMATS if form.recognizes(weights)), None)
    if form is None:
        raise FormatError(
            f"SAE {weights.path}: none of the layouts that we know ({', '.join(form.NAME for form in FORMATS)}) has the tensors "
            f"{listed(weights.names)}"
        )
    return form


def identity_sae(d: int, hookpoint: str) -> SAE:
    """The neurons of a module's output as features: encoder and decoder are the identity, negative values do not fire."""
    return SAE(
        torch.eye(d),
        torch.zeros(d),
        torch.eye(d),
        torch.zeros(d),
        Selection("relu"),
        "neurons",
        Source(Path("neurons"), "neurons", f"identity-{d}"),
        hookpoint=hookpoint,
    )


def to(sae: SAE, dtype: torch.dtype, device: str) -> SAE:
    """Return the SAE on `device`, its encoder in `dtype`. All else becomes float32: a rounded threshold is another SAE.

    Raises FormatError naming a tensor that is not finite.
    """

    def move(name: str, value: object) -> object:
        # A decoder with several places may not fit: its rows move as they are needed.
        if not isinstance(value, torch.Tensor) or (name == "w_dec" and sae.writes):
            return value
        return moved(value, dtype if name in ("w_enc", "b_enc") else torch.float32, device)

    tensors = {name: move(name, value) for name, value in vars(sae).items()}
    tensors["selection"] = Selection(**{name: move(name, value) for name, value in vars(sae.selection).items()})  # type: ignore[arg-type]
    there = SAE(**tensors)  # type: ignore[arg-type]
    check_finite(there)
    return there
