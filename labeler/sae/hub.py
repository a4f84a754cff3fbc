"""SAEs from a hub: only the files that one needs are downloaded, once, and pinned to the commit that was found.

A repository can hold thousands of SAEs, so its list of files decides what is fetched (labeler/sae/listing.py). Without a
network, what was downloaded before is found in the hub's cache.
"""

from __future__ import annotations

import difflib
import glob
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from labeler.errors import InputError, NotFoundError
from labeler.places import in_repository, sae_on_hub
from labeler.sae.listing import ListedSae, group
from labeler.sae.registry import registered

_MOST_LISTED = 20
_MOST_FILES = 20_000


@dataclass(frozen=True)
class Repository:
    """What a repository holds at one revision."""

    name: str  # OWNER/REPO
    revision: str | None  # as it was asked for
    files: tuple[str, ...]
    is_cache: bool = False  # the files are those that were downloaded before

    def at(self, path: str | None) -> str:
        """Spell a path in the repository as --sae takes it."""
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"hf:{self.name}" + (f"/{path}" if path else "") + revision


def download(
    name: str, *, hookpoint: str | None = None, layers: Collection[int] | None = None
) -> tuple[Path, str | None]:
    """(local path, commit) of `hf:REPO/PATH@REVISION` or `sae-lens:RELEASE/ID`, with the files of this SAE and no others.

    Of a set with a file for each layer, those of all `layers`. Raises NotFoundError, or InputError where the name leaves
    open which SAE is meant.
    """
    repo, path, revision = _parsed(name)
    with _reachable(name, repo, path):
        repository = _listed(repo, revision)
        chosen = _chosen(name, repository, path, hookpoint, layers)
        files = sorted({file for sae in chosen for file in sae.files})
        folder = Path(_snapshot(repository, files))
    found = folder / chosen[0].weights if len(chosen) == 1 else folder / chosen[0].folder
    if len(chosen) == 1 and any(file.endswith(".index.json") for file in chosen[0].files):
        found = found.parent  # its index says which files belong together
    return found, folder.name


def is_set_on_hub(name: str) -> bool:
    """Say whether a name on the hub is of a folder with a file for each of several layers of one set."""
    repo, path, revision = _parsed(name)
    with _reachable(name, repo, path):
        inside = _inside(_listed(repo, revision), path)
    return len(inside) > 1 and _is_set(inside)


def repository_of(name: str) -> tuple[Repository, str | None]:
    """Return what the repository of a name on the hub holds, and the path in it. Raises NotFoundError."""
    repo, path, revision = _parsed(name)
    with _reachable(name, repo, path):
        return _listed(repo, revision), path


def small_file(repository: Repository, path: str) -> Path | None:
    """Return a configuration's local path, downloaded if need be; None where it cannot be had."""
    try:
        return Path(_snapshot(repository, [path])) / path
    except (OSError, ValueError):
        return None


def header_of(repository: Repository, path: str) -> dict[str, list[int]] | None:
    """Return the shapes in a safetensors file, of which only the header is read; None where it cannot be had."""
    from huggingface_hub import HfApi

    if repository.is_cache or not path.endswith(".safetensors"):
        return None
    try:
        found = HfApi().parse_safetensors_file_metadata(repository.name, path, revision=repository.revision)
    except Exception:  # whatever the hub's libraries raise: a width is a help, and its absence no error
        return None
    return {name: list(tensor.shape) for name, tensor in found.tensors.items()}


def _parsed(name: str) -> tuple[str, str | None, str | None]:
    if name.startswith("sae-lens:"):
        entry = registered(name)
        return in_repository(name, entry.repository, entry.path, None)
    return sae_on_hub(name)


def _listed(repo: str, revision: str | None) -> Repository:
    """Ask for the list of files, or, without a network, look at those that were downloaded."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if not constants.HF_HUB_OFFLINE:
        try:
            info = HfApi().model_info(repo, revision=revision)
            return Repository(repo, revision, tuple(file.rfilename for file in info.siblings or ()))
        except Exception as error:
            if not _is_network(error):
                raise
    folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return Repository(repo, revision, tuple(files[:_MOST_FILES]), is_cache=True)


def _snapshot(repository: Repository, files: Sequence[str]) -> str:
    from huggingface_hub import snapshot_download

    patterns = [glob.escape(file) for file in files]
    return snapshot_download(
        repository.name,
        revision=repository.revision,
        allow_patterns=patterns,
        local_files_only=repository.is_cache,
    )


def _inside(repository: Repository, path: str | None) -> list[ListedSae]:
    saes = group(repository.files)
    if path is None:
        return saes
    exact = [sae for sae in saes if path in sae.files and path.endswith((".safetensors", ".npz", ".pt", ".pth"))]
    return exact or [sae for sae in saes if sae.weights.startswith(f"{path}/")]


def _is_set(saes: Sequence[ListedSae]) -> bool:
    """Say whether SAEs are the layers of one set, as their files are called."""
    numbers = {sae.layer_in_set for sae in saes}
    alike = len({(sae.folder, sae.format) for sae in saes}) == 1
    return alike and None not in numbers and len(numbers) == len(saes)


def _chosen(
    name: str, repository: Repository, path: str | None, hookpoint: str | None, layers: Collection[int] | None
) -> list[ListedSae]:
    inside = _inside(repository, path)
    if not inside:
        raise NotFoundError(_nothing_there(name, repository, path))
    if len(inside) == 1:
        return inside
    if hookpoint is not None:
        place = hookpoint.rpartition(":")[0] if hookpoint.endswith((":input", ":output")) else hookpoint
        fitting = [s for s in inside if any(f".{place}".endswith(f".{_below(n, path)}") for n in (s.weights, s.folder))]
        if len(fitting) == 1:
            return fitting
    elif _is_set(inside):
        # Layers that are not there are named when the set is read.
        return [sae for sae in inside if layers is None or sae.layer_in_set in layers] or inside[:1]
    shown = ", ".join(repository.at(_name(sae, inside)) for sae in inside[:_MOST_LISTED])
    more = f" and {len(inside) - _MOST_LISTED} more" if len(inside) > _MOST_LISTED else ""
    raise InputError(
        f"SAE {name!r}: holds several SAEs; name one: {shown}{more}. `labeler saes {repository.at(path)}` lists them with place and "
        "width"
    )


def _below(inner: str, path: str | None) -> str:
    return inner.removeprefix(f"{path}/") if path else inner


def _name(sae: ListedSae, among: Sequence[ListedSae]) -> str:
    """The folder of an SAE that lies there by itself, else its file."""
    is_alone = sum(other.folder == sae.folder for other in among) == 1
    return sae.folder if is_alone and sae.folder else sae.weights


def _nothing_there(name: str, repository: Repository, path: str | None) -> str:
    where = "in what was downloaded of it" if repository.is_cache else "there"
    saes = group(repository.files)
    if not saes:
        return (
            f"SAE {name!r}: the repository holds no SAE {where}, no file that ends in .safetensors, .npz, .pt or .pth"
        )
    names = list(dict.fromkeys(_name(sae, saes) for sae in saes))
    near = difflib.get_close_matches(path or "", names, n=4, cutoff=0.3) or names[:4]
    fetch = ""
    if repository.is_cache:
        fetch = (
            f". Without a network: download the files of {path} of the repository {repository.name} on a machine that has one, put "
            "them in a folder, and give that folder as --sae"
        )
    return (
        f"SAE {name!r}: no such file or folder {where}; the nearest of {len(saes):,} SAEs are "
        f"{', '.join(repository.at(one) for one in near)}{fetch}"
    )


class _reachable:  # noqa: N801 - used as a statement
    """Turn what the hub's libraries raise into NotFoundError that says what to do."""

    def __init__(self, name: str, repo: str, path: str | None) -> None:
        self._name, self._repo, self._path = name, repo, path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, NotFoundError | InputError):
            return
        if says := _says(error, self._repo):
            raise NotFoundError(f"SAE {self._name!r}: {says}") from error
        if isinstance(error, OSError | ValueError) or _is_network(error):
            files = f"the files of {self._path}" if self._path else "its files"
            raise NotFoundError(
                f"SAE {self._name!r}: cannot be fetched from here ({type(error).__name__}). Download {files} of the repository "
                f"{self._repo} on a machine with a network, put them in a folder, and give that folder as --sae"
            ) from error


def _says(error: BaseException, repo: str) -> str | None:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository {repo} is gated: accept its terms on its page, and set HF_TOKEN to a token of that account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {repo} has no such revision: give a branch, a tag or a commit after @, or leave it away"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no repository {repo}, or it is private: check its name, or set HF_TOKEN to a token that may read it"
    return None


def _is_network(error: BaseException) -> bool:
    """Say whether an error means that the hub could not be asked, or was not able to answer."""
    from huggingface_hub import errors

    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.GatedRepoError):
        return False
    # The hub's HTTP library raises connection errors of its own kind, which derive from Exception alone.
    libraries = ("httpx", "httpcore", "httpx2", "httpcore2", "requests")
    return isinstance(error, OSError | errors.HfHubHTTPError) or any(
        kind.__module__.split(".")[0] in libraries for kind in _kinds(error)
    )


def _kinds(error: BaseException) -> Iterator[type]:
    yield from type(error).__mro__
