"""SAEs from a hub: of a repository only the files of one SAE, or of a set, pinned to the revision that was found."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

from labeler.errors import InputError, NotFoundError
from labeler.numbers import ranges
from labeler.places import in_repository, sae_on_hub
from labeler.published.hub import Repository, open_repository
from labeler.published.layouts import SUFFIXES, PublishedSAE, at, fitting, is_set, saes_among
from labeler.sae.registry import registered

_MOST_NAMED = 8  # in an error; `labeler saes` lists all


def download(name: str, hookpoint: str | None = None) -> tuple[Path, str]:
    """(file or folder, commit) of `hf:REPO/PATH@REVISION` or `sae-lens:RELEASE/ID`, with its configurations beside it.

    `hookpoint` chooses where the path holds several SAEs. Raises NotFoundError or InputError.
    """
    repository, saes, path = _found(name)
    sae = _chosen(name, repository, saes, path, hookpoint)
    folder = repository.fetch(sae.files, f"SAE {name!r}")
    return folder / (sae.weights[0] if len(sae.weights) == 1 else sae.folder), folder.name


def download_layers(name: str, layers: Collection[int] | None) -> tuple[Path, str]:
    """(folder, commit) of a set with a file for each layer, of which `layers` are there. Raises NotFoundError or InputError."""
    repository, saes, _ = _found(name)
    chosen = _chosen_layers(name, saes, layers)
    files = dict.fromkeys(file for sae in chosen for file in sae.files)
    folder = repository.fetch(list(files), f"SAE {name!r}")
    return folder / saes[0].folder, folder.name


def check_on_hub(name: str, hookpoint: str | None, layers: Collection[int] | None) -> None:
    """Raise NotFoundError or InputError for a name that leads to no SAE, or to several; nothing is downloaded."""
    repository, saes, path = _found(name)
    if layers is not None:
        _chosen_layers(name, saes, layers)
    elif hookpoint is not None or not is_set(saes):
        _chosen(name, repository, saes, path, hookpoint)


def is_set_on_hub(name: str) -> bool:
    """Say whether a name on the hub is of a folder with a file for each of several layers; nothing is downloaded."""
    return is_set(_found(name)[1])


def _found(name: str) -> tuple[Repository, list[PublishedSAE], str]:
    """The repository, the SAEs that the name can mean, and the path that it says."""
    repo, path, revision = (_from_registry if name.startswith("sae-lens:") else sae_on_hub)(name)
    repository = open_repository(repo, revision, f"SAE {name!r}")
    saes = saes_among(repository.files)
    found = at(saes, path or "")
    if not found:
        raise NotFoundError(f"SAE {name!r}: {_nothing(repository, saes, path)}")
    return repository, found, path or ""


def _chosen(
    name: str, repository: Repository, saes: Sequence[PublishedSAE], path: str, hookpoint: str | None
) -> PublishedSAE:
    """The only SAE, or the one whose folder or file is called after the hookpoint or the end of it."""
    if len(saes) == 1:
        return saes[0]
    names = {sae.path.removeprefix(f"{path}/"): sae for sae in saes}
    fits = fitting(names, hookpoint) if hookpoint is not None else []
    if len(fits) == 1:
        return names[fits[0]]
    which = "" if hookpoint is None else f", and none is called after {hookpoint!r}"
    where = f" at {path}" if path else ""
    raise InputError(
        f"SAE {name!r}: {_held(repository)} {len(saes):,} SAEs{where}{which}; name one of them: {_listed(repository, saes)}"
    )


def _chosen_layers(name: str, saes: Sequence[PublishedSAE], layers: Collection[int] | None) -> list[PublishedSAE]:
    # One layer by itself is a set, too: it may be all that a cache or a path holds.
    are_layers = is_set(saes) or len(saes) == 1
    held = {sae.layer: sae for sae in saes if sae.layer is not None} if are_layers else {}
    return [held[layer] for layer in wanted_layers(name, held, layers)]


def wanted_layers(name: str, held: Collection[int], layers: Collection[int] | None) -> list[int]:
    """Return the layers of a set that are asked for, in order; all that it holds for None. Raises InputError."""
    if not held:
        raise InputError(f"SAE {name!r}: not a folder with a file for each layer, so that --layers chooses nothing")
    if missing := sorted(set(layers or ()) - set(held)):
        raise InputError(f"SAE {name!r}: no layers {ranges(missing)} there; it holds {ranges(sorted(held))}")
    return sorted(held if layers is None else set(layers))


def _nothing(repository: Repository, saes: Sequence[PublishedSAE], path: str | None) -> str:
    if not saes:
        files = sorted(repository.files)
        shown = ", ".join(files[:_MOST_NAMED]) + (
            f" and {len(files) - _MOST_NAMED:,} more" if files[_MOST_NAMED:] else ""
        )
        return f"{_held(repository)} no weights of an SAE (they end in {', '.join(SUFFIXES)}), but {shown or 'nothing'}"
    near = difflib.get_close_matches(path or "", [sae.path for sae in saes], n=_MOST_NAMED, cutoff=0.5)
    first = [sae for sae in saes if sae.path in near] or saes
    return f"{_held(repository)} no such file or folder as {path}; name one that it holds: {_listed(repository, first, len(saes))}"


def _held(repository: Repository) -> str:
    if repository.cached is None:
        return f"the repository {repository.name} holds"
    return f"the hub cannot be asked now, and of the repository {repository.name} the cache of this machine holds"


def _listed(repository: Repository, saes: Sequence[PublishedSAE], n_all: int | None = None) -> str:
    """The names to type, as far as a message has room, and the command that lists all."""
    at_revision = f"@{repository.revision}" if repository.revision else ""
    shown = [f"hf:{repository.name}{f'/{sae.path}' if sae.path else ''}{at_revision}" for sae in saes[:_MOST_NAMED]]
    more = (n_all or len(saes)) - len(shown)
    every = f"; `labeler saes {repository.name}{at_revision}` lists all"
    return ", ".join(shown) + (f" and {more:,} more" if more else "") + every


def _from_registry(name: str) -> tuple[str, str | None, str | None]:
    entry = registered(name)
    return in_repository(name, entry.repository, entry.path, None)
