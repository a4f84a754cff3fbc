"""Tell names on a hub apart from paths by their pattern, and list the files that a corpus may be.

    NAME, OWNER/NAME                    a model or a data set
    hf:OWNER/NAME[/PATH][@REVISION]     an SAE in a repository
    sae-lens:RELEASE/ID                 an SAE that the package sae-lens lists
    hf:NAME[:SPLIT]                     a data set as a corpus

A name on the hub is never a path: libraries that take both would read a folder of this machine for a name that looks
like one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from labeler.errors import InputError

_OLD_INPUT = " (input)"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}"
_NAME = re.compile(rf"(?:{_WORD}/)?{_WORD}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_SPLIT = re.compile(r"\w+(?:\.\w+)*", re.ASCII)
_SAE = re.compile(r"hf:(?P<repository>[^/@]+/[^/@]+)(?:/(?P<path>[^@]+))?(?:@(?P<revision>.+))?")

TEXT_SUFFIXES = frozenset(
    (".txt", ".md", ".rst", ".py", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs", ".tex", ".html")
)
CORPUS_SUFFIXES = TEXT_SUFFIXES | {".jsonl", ".parquet", ".npy"}


def is_hub_name(name: str) -> bool:
    """Return True if the name has the hub's pattern NAME or OWNER/NAME."""
    return _NAME.fullmatch(name) is not None and not (
        ".." in name or "--" in name or name.endswith((".", "-", ".git")) or len(name) > 96
    )


def hub_name(name: str, what: str) -> str:
    """Return the name of a model or data set on the hub. Raises InputError for any other, and for an existing path."""
    if not is_hub_name(name):
        raise InputError(f"{what} {name[:200]!r}: no name on the hub; expected NAME or OWNER/NAME")
    if os.path.lexists(name):
        raise InputError(
            f"{what} {name!r}: a file or folder of that name is here; give its path as ./{name}, or start elsewhere to name "
            "the one on the hub"
        )
    return name


def hub_revision(revision: str | None, what: str) -> str | None:
    """Return a branch, tag or commit. Raises InputError for a name that could lead out of the hub's cache."""
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > 200):
        raise InputError(f"{what}: {revision[:200]!r} is no revision; expected a branch, a tag or a commit")
    return revision


def sae_on_hub(name: str) -> tuple[str, str | None, str | None]:
    """Return (repository, path in it, revision) of `hf:OWNER/NAME/PATH@REVISION`. Raises InputError."""
    match = _SAE.fullmatch(name)
    if match is None:
        raise InputError(
            f"SAE {name[:200]!r}: expected hf:OWNER/REPO, hf:OWNER/REPO/PATH or hf:OWNER/REPO/PATH@REVISION"
        )
    return in_repository(name, match["repository"], match["path"], match["revision"])


def in_repository(
    name: str, repository: str, path: str | None, revision: str | None
) -> tuple[str, str | None, str | None]:
    """Return repository, path and revision, once none leads out of the repository. Raises InputError."""
    if path is not None and not is_plain_path(path):
        raise InputError(f"SAE {name[:200]!r}: {path[:200]!r} is no path in a repository")
    return hub_name(repository, "SAE"), path, hub_revision(revision, f"SAE {name[:200]!r}")


def release_of_saelens(name: str) -> tuple[str, str]:
    """(release, id) of `sae-lens:RELEASE/ID`. Raises InputError."""
    release, slash, sae_id = name.removeprefix("sae-lens:").partition("/")
    if not (release and slash and sae_id) or not is_plain_path(sae_id):
        raise InputError(
            f"SAE {name[:200]!r}: expected sae-lens:RELEASE/ID, such as sae-lens:gpt2-small-res-jb/blocks.8.hook_resid_pre"
        )
    return release, sae_id


def data_set_on_hub(spec: str) -> tuple[str, str]:
    """(name, split) of `hf:NAME` or `hf:NAME:SPLIT`. Raises InputError."""
    name, colon, split = spec.removeprefix("hf:").partition(":")
    # A storage bucket and not a data set, for the library that reads them.
    if name.startswith("buckets/") or (colon and not _SPLIT.fullmatch(split)):
        raise InputError(f"corpus {spec[:200]!r}: expected hf:NAME or hf:NAME:SPLIT")
    return hub_name(name, "corpus"), split or "train"


def is_plain_path(path: str) -> bool:
    """Return True if a relative path, with slashes, only goes down."""
    parts = path.split("/")
    return not any(part in ("", ".", "..") or "\\" in part or not part.isprintable() for part in parts)


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def spelled_hookpoint(path: str, reads: str) -> str:
    """Return a module path with its side, as `--hookpoint` takes it: `PATH:input`, or only PATH for its output."""
    return f"{path}:input" if reads == "input" else path


def respelled_hookpoint(hookpoint: str) -> str:
    """Return a hookpoint as it is spelled now; earlier versions wrote `PATH (input)`."""
    return f"{hookpoint.removesuffix(_OLD_INPUT)}:input" if hookpoint.endswith(_OLD_INPUT) else hookpoint
