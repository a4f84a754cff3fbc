"""A repository on the hub: its list of files, the files that are asked for, and what the hub's cache holds without a network.

Only files that are named are downloaded, never a whole repository.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, LabelerError, NotFoundError
from labeler.files import check_regular, clear_disk_errors
from labeler.published.headers import HEAD, Shapes, check_torch, shapes_of_npz, shapes_of_pt, shapes_of_safetensors
from labeler.published.layouts import SUFFIXES

_HTTP_LIBRARIES = ("httpx", "httpcore", "httpx2", "httpcore2", "requests", "urllib3")
_NO_ENTRY = (401, 403)
TORCH = (".pt", ".pth")


@dataclass(frozen=True)
class Repository:
    """The files of a repository at a revision, with their sizes in bytes."""

    name: str  # OWNER/REPO
    revision: str | None  # as it was asked for
    sizes: dict[str, int | None]
    cached: Path | None = None  # the cache's folder, where the hub itself could not be asked: `sizes` are what it holds
    listed: frozenset[str] = frozenset()  # files that the hub named when they were downloaded, in the cache or not

    @property
    def files(self) -> frozenset[str]:
        """All files as far as they are known, also those that the cache does not hold."""
        return self.listed | frozenset(self.sizes)

    def fetch(self, files: Sequence[str], what: str) -> Path:
        """Download these files, and return the folder of the cache that holds the repository's files, called after its commit.

        Raises NotFoundError.
        """
        if self.cached is not None:
            if missing := [file for file in files if file not in self.sizes]:
                raise NotFoundError(
                    f"{what}: the hub cannot be asked now, and of the repository {self.name} the cache of this machine does not hold "
                    f"{_some(missing)}; `labeler saes {self.name}` lists what it holds"
                )
            return self.cached
        from huggingface_hub import snapshot_download

        shown: dict[str, Any] = {} if any(file.endswith(SUFFIXES) for file in files) else {"tqdm_class": _no_bar()}
        with _clear_errors(self.name, self.revision, what, files):
            exactly = [glob.escape(file) for file in files]
            return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=exactly, **shown))

    def shapes(self, file: str, what: str) -> Shapes:
        """The shapes of a file's tensors, for which only its beginning is read. Raises NotFoundError or FormatError.

        None for a `.npz` on the hub: each array's shape stands before the array, so no single part of the file has them all.
        """
        if self.cached is not None:
            return shapes_at(self.cached / file)
        if file.endswith(".npz"):
            return {}
        with _clear_errors(self.name, self.revision, what, [file]):
            return self._shapes_of_pt(file) if file.endswith(TORCH) else self._shapes_of_safetensors(file, what)

    def _shapes_of_safetensors(self, file: str, what: str) -> Shapes:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import SafetensorsParsingError

        try:
            header = HfApi().parse_safetensors_file_metadata(self.name, file, revision=self.revision)
        except SafetensorsParsingError as error:
            raise FormatError(f"{what}: {file} is damaged, not readable as safetensors") from error
        return {name: tuple(info.shape) for name, info in header.tensors.items()}

    def _shapes_of_pt(self, file: str) -> Shapes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

        headers = {**build_hf_headers(), "Range": f"bytes=0-{HEAD - 1}"}
        # Streamed: a server that does not know ranges would send all of the weights.
        with get_session().stream(
            "GET", hf_hub_url(self.name, file, revision=self.revision), headers=headers
        ) as answer:
            hf_raise_for_status(answer)
            head = b""
            for part in answer.iter_bytes():
                head += part
                if len(head) >= HEAD:
                    break
        check_torch(head, file)
        return shapes_of_pt(head[:HEAD])


def _no_bar() -> type:
    """A progress bar that shows nothing: a few configurations come at once."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class NoBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})

    return NoBar


def open_repository(repository: str, revision: str | None, what: str) -> Repository:
    """Ask the hub which files a repository holds; without a network, the hub's cache. Raises NotFoundError."""
    from huggingface_hub import HfApi, RepoFile

    try:
        with _clear_errors(repository, revision, what, ()):
            # First a request that is not tried again and again: without a network the cache should answer at once.
            commit = HfApi().model_info(repository, revision=revision, timeout=30).sha
            entries = HfApi().list_repo_tree(repository, recursive=True, revision=commit)
            return Repository(repository, revision, {e.path: e.size for e in entries if isinstance(e, RepoFile)})
    except NotFoundError as error:
        cached = _snapshot(repository, revision)
        if cached is None or _says_that_it_is_not_there(error.__cause__):
            raise
        found = sorted(path for path in cached.rglob("*") if path.is_file())
        sizes: dict[str, int | None] = {path.relative_to(cached).as_posix(): path.stat().st_size for path in found}
        return Repository(repository, revision, sizes, cached, _listed_before(repository, cached.name))


def _listed_before(repository: str, commit: str) -> frozenset[str]:
    """The files that the hub named at the last download of this commit; none where its library did not keep them."""
    try:
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError
    except ImportError:  # an older huggingface_hub
        return frozenset()
    try:
        return frozenset(entry.path for entry in get_cached_repo_tree(repository, revision=commit))
    except CachedRepoTreeNotFoundError:
        return frozenset()


def shapes_at(path: Path) -> Shapes:
    """The shapes of the tensors of a `.safetensors`, `.npz`, `.pt` or `.pth` file on this machine. Raises FormatError."""
    check_regular(path)
    if path.suffix not in TORCH:
        return shapes_of_npz(path) if path.suffix == ".npz" else shapes_of_safetensors(path)
    with path.open("rb") as file:
        head = file.read(HEAD)
    check_torch(head, str(path))
    return shapes_of_pt(head)


def _snapshot(repository: str, revision: str | None) -> Path | None:
    """The folder in the hub's cache that holds this revision, where there is one."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE).expanduser() / f"models--{repository.replace('/', '--')}"
    wanted = revision or constants.DEFAULT_REVISION
    reference = folder / "refs" / wanted
    commit = reference.read_text().strip() if reference.is_file() else wanted
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def _says_that_it_is_not_there(error: BaseException | None) -> bool:
    from huggingface_hub.errors import RevisionNotFoundError

    return isinstance(error, RevisionNotFoundError)


@contextmanager
def _clear_errors(repository: str, revision: str | None, what: str, files: Sequence[str]) -> Iterator[None]:
    """Turn what the hub's library raises into a NotFoundError that says what to do, and a full disk into a StorageError."""
    try:
        with clear_disk_errors("the hub's cache"):
            yield
    except LabelerError:
        raise
    except (OSError, ValueError) as error:
        raise NotFoundError(f"{what}: {_why(error, repository, revision, files)}") from error
    except Exception as error:
        # The hub's HTTP library raises connection errors of its own kind, which derive from Exception alone.
        if type(error).__module__.split(".")[0] not in (*_HTTP_LIBRARIES, "huggingface_hub"):
            raise
        raise NotFoundError(f"{what}: {_why(error, repository, revision, files)}") from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or the one that it was raised from, was answered with."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _why(error: Exception, repository: str, revision: str | None, files: Sequence[str]) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    status = _status(error)
    if isinstance(error, RevisionNotFoundError):
        return f"the repository {repository} has no revision {revision!r}; give a branch, a tag or a commit of it after the @"
    if isinstance(error, GatedRepoError):
        return (
            f"the repository {repository} is gated: accept its terms on its page on the hub, then log in with `hf auth login` or set "
            "HF_TOKEN"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub shows no repository {repository}: compare the name with that of its page; for a private one log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if status in _NO_ENTRY:
        return f"the hub refuses {repository} to this login (HTTP {status}): log in anew with `hf auth login`, or correct HF_TOKEN"
    if status == 429:
        return "the hub takes no more requests for now (HTTP 429): try again in some minutes, or log in with `hf auth login`"
    named = _some(files) if files else "the SAE's files"
    if isinstance(error, OfflineModeIsEnabled):
        at = f" at revision {revision!r}" if revision else ""
        why = f"HF_HUB_OFFLINE is set, and the cache of this machine does not hold {repository}{at}: unset it"
        return (
            f"{why}, or look at the name. Without a network: Download {named} of the repository {repository} on a machine with one, "
            "put them in a folder, and give that folder as --sae"
        )
    return (
        f"cannot be fetched from here ({type(error).__name__}{f', HTTP {status}' if status else ''}). Download {named} of the "
        f"repository {repository} on a machine with a network, put them in a folder, and give that folder as --sae"
    )


def _some(files: Sequence[str]) -> str:
    return ", ".join(files[:4]) + (f" and {len(files) - 4:,} more" if len(files) > 4 else "")
