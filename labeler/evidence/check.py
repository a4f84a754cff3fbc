"""Read all files of an evidence folder from end to end, and report what is wrong with any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import FormatError, LabelerError, reason_of
from labeler.evidence.hashes import BLOCK_BYTES, Hashes, covered_files
from labeler.evidence.manifest import MANIFEST, has_hashes, read_manifest
from labeler.evidence.progress import Progress, no_progress
from labeler.evidence.steered import FOLDER, SteeredFolder
from labeler.evidence.store import BY_OTHERS, EvidenceFolder
from labeler.files import map_npy, read_json

_ELEMENTS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class FileCheck:
    """The finding about one file."""

    file: str
    n_bytes: int
    problem: str | None = None  # None: the file is as it was gathered, as far as one can see where there are no hashes
    damaged_blocks: int = 0


@dataclass(frozen=True)
class EvidenceCheck:
    """The findings about a folder."""

    folder: Path
    files: tuple[FileCheck, ...]
    has_hashes: bool  # without hashes, only impossible values are found

    @property
    def problems(self) -> list[FileCheck]:
        return [file for file in self.files if file.problem is not None]


def check_evidence(folder: Path, on_progress: Progress = no_progress) -> EvidenceCheck:
    """Compare every file with its hashes, and look for impossible values.

    Raises NotFoundError where there is no evidence.
    """
    try:
        manifest = read_manifest(folder)
    except FormatError as error:
        # Without the manifest nothing can be said about the other files.
        return EvidenceCheck(
            folder, (FileCheck(MANIFEST, _size(folder / MANIFEST), reason_of(error)),), has_hashes=False
        )
    hashes, found = None, [FileCheck(MANIFEST, _size(folder / MANIFEST))]
    if has_hashes(manifest):
        try:
            hashes = Hashes(folder, manifest)
            found.append(FileCheck(hashes.name, _size(folder / hashes.name)))
        except FormatError as error:
            found.append(FileCheck(manifest["files"]["hashes"], 0, reason_of(error)))
    names = covered_files(folder) if hashes is None else list(hashes.of)
    total = sum(_size(folder / name) for name in names)
    done = 0
    on_progress("check", done, total)
    for name in names:
        found.append(_check_file(folder, name, hashes, manifest))
        done += found[-1].n_bytes
        on_progress("check", done, total)
    found += _check_steered(folder)
    if not any(f.problem for f in found):
        found += _check_together(folder)
    return EvidenceCheck(folder, tuple(found), has_hashes(manifest))


def _check_file(folder: Path, name: str, hashes: Hashes | None, manifest: dict[str, Any]) -> FileCheck:
    n_bytes = _size(folder / name)
    try:
        if hashes is not None and (blocks := hashes.damaged_blocks(name)):
            more = f" (and {len(blocks) - 1:,} more blocks of {BLOCK_BYTES:,})" if len(blocks) > 1 else ""
            return FileCheck(name, n_bytes, hashes.of[name][0].problem(blocks[0]) + more, len(blocks))
        if name.endswith(".npy"):
            return FileCheck(name, n_bytes, _impossible(name, map_npy(folder / name), manifest))
        if name.endswith(".json"):
            read_json(folder / name)
    except LabelerError as error:
        return FileCheck(name, n_bytes, reason_of(error))
    return FileCheck(name, n_bytes)


def _impossible(name: str, array: np.ndarray, manifest: dict[str, Any]) -> str | None:
    """Describe the first value that no gathering pass writes; None where all values are possible."""
    may_be_nan = BY_OTHERS in manifest and name.partition(".")[0] in ("statistics", "output")
    n_tokens = int(manifest["corpus"]["n_tokens"])
    bounds = {"start": n_tokens, "position": n_tokens, "n_firings": n_tokens + 1}.get(name.split(".")[-2])
    flat = array.reshape(-1)
    for low in range(0, flat.size, _ELEMENTS_AT_ONCE):
        part = flat[low : low + _ELEMENTS_AT_ONCE]
        if part.dtype.kind == "f":
            wrong = np.isinf(part) if may_be_nan else ~np.isfinite(part)
        elif part.dtype.kind == "i" and name.startswith("statistics."):
            wrong = part < 0
        else:
            wrong = np.zeros(part.size, dtype=bool)
        if bounds is not None and part.dtype.kind in "iu":
            wrong = wrong | (part >= bounds)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            return f"{int(wrong.sum()):,} values that cannot be, such as {part[first]} at {low + first:,}"
    return None


def _check_steered(folder: Path) -> Iterator[FileCheck]:
    """Check the files that `labeler intervene` has written; they carry their own digests."""
    steered = SteeredFolder(folder)
    if not steered.exists:
        return
    parts: dict[str, Callable[[], object]] = {
        "config.json": lambda: steered.controls,
        "clean.json": lambda: steered.prompts,
        "texts.jsonl": lambda: [steered.read(feature) for feature in (-1, *steered.features)],
    }
    for name, read in parts.items():
        problem = None
        try:
            read()
        except LabelerError as error:
            problem = reason_of(error)
        yield FileCheck(f"{FOLDER}/{name}", _size(steered.folder / name), problem)


def _check_together(folder: Path) -> Iterator[FileCheck]:
    """Check that files which are whole also fit each other, by opening them as a reader does."""
    try:
        EvidenceFolder(folder).check_shared()
    except FormatError as error:
        yield FileCheck(getattr(error, "file", MANIFEST), 0, reason_of(error))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
