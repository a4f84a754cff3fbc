"""Hashes of the files of an evidence folder: what is read is compared with what was written.

    manifest.json          "files": the size of each file, and the hash of its blocks' hashes; "digest": of the manifest itself
    hashes-<digest>.npy    [n_blocks, 16] of each 8 KiB of each file, in the order of "files"

A block is cut by bytes, not by features: whatever a feature has, one read of it hashes no more than the blocks that hold it.
The hashes take 0.2% of the room. They are SHA-256, cut to 128 bits: the fastest strong hash of the standard library on
processors that compute it, and evidence that travels should not rest on a checksum that can be made to fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import DamagedError, FormatError, NotFoundError
from labeler.files import check_regular, map_npy, save_npy

BLOCK_BYTES = 1 << 13  # 1,024 counts
HASH_BYTES = 16
_ALGORITHM = "sha256-128"
_PATTERNS = (
    "vocabulary.*.npy", "token_counts.npy", "statistics.*.npy", "random.*.npy", "output.*.npy", "neighbours.*.npy",
    "contexts/*.npy", "corpus/*.npy", "corpus/corpus.json", "corpus/document_ids.jsonl",
)  # fmt: skip


def hash_of(block: Any) -> bytes:
    return hashlib.sha256(block).digest()[:HASH_BYTES]


def blocks_of(n_bytes: int) -> int:
    return -(-n_bytes // BLOCK_BYTES)


def covered_files(folder: Path) -> list[str]:
    """The names of all files that hashes cover, sorted."""
    return sorted(p.relative_to(folder).as_posix() for pattern in _PATTERNS for p in folder.glob(pattern))


def seal(folder: Path, known: dict[str, Any] | None) -> dict[str, Any]:
    """Write the hashes of all files and return "files" of the manifest; `known` is what that was before."""
    names = covered_files(folder)
    # A file that has hashes keeps them: hashed anew, what has happened to it since would count as right.
    before = dict(_tables(folder, known)) if known else {}
    tables = {name: before.get(name, (0, b"")) for name in names}
    for name in names:
        if name not in before:
            tables[name] = (folder / name).stat().st_size, _hash_file(folder / name)
    whole = b"".join(table for _, table in tables.values())
    hashes = f"hashes-{hashlib.sha256(whole).hexdigest()[:16]}.npy"
    if not known or known["hashes"] != hashes:
        save_npy(folder / hashes, np.frombuffer(whole, dtype=np.uint8).reshape(-1, HASH_BYTES))
    of = {name: [size, hash_of(table).hex()] for name, (size, table) in tables.items()}
    return {"hash": _ALGORITHM, "block_bytes": BLOCK_BYTES, "hashes": hashes, "of": of}


def _tables(folder: Path, known: dict[str, Any]) -> Iterator[tuple[str, tuple[int, bytes]]]:
    table, row = map_npy(folder / known["hashes"]), 0
    for name, (size, _) in known["of"].items():
        yield name, (size, table[row : row + blocks_of(size)].tobytes())
        row += blocks_of(size)


def _hash_file(path: Path) -> bytes:
    found = bytearray()
    with path.open("rb") as file:
        while data := memoryview(file.read(256 * BLOCK_BYTES)):
            for low in range(0, len(data), BLOCK_BYTES):
                found += hash_of(data[low : low + BLOCK_BYTES])
    return bytes(found)


class Hashes:
    """The hashes of one evidence folder, read from its manifest. Raises DamagedError where they are damaged themselves."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        files = manifest["files"]
        self.of: dict[str, tuple[int, bytes]] = {}
        self._first: dict[str, int] = {}
        n_blocks = 0
        for name, (size, digest) in files["of"].items():
            self.of[name], self._first[name] = (int(size), bytes.fromhex(digest)), n_blocks
            n_blocks += blocks_of(int(size))
        self.name = str(files["hashes"])
        with as_damage(folder, self.name):
            self._table = map_npy(folder / self.name)
        if self._table.shape != (n_blocks, HASH_BYTES) or self._table.dtype != np.uint8:
            raise DamagedError(
                folder, self.name, f"expected the hashes of {n_blocks:,} blocks, found {self._table.shape}"
            )

    def table(self, name: str) -> np.ndarray:
        """[n_blocks, 16] of one file. Raises DamagedError."""
        (size, digest), first = self.of[name], self._first[name]
        table = self._table[first : first + blocks_of(size)]
        if hash_of(np.ascontiguousarray(table)) != digest:
            raise DamagedError(self.folder, self.name, f"the hashes of {name} in it do not fit the manifest")
        return table

    def check_sizes(self) -> None:
        """Each file is there, is a file, and is as long as it was. Raises DamagedError."""
        for name, (size, _) in self.of.items():
            self.check_size(name, size)

    def check_size(self, name: str, expected: int) -> None:
        with as_damage(self.folder, name):
            check_regular(self.folder / name)
            found = (self.folder / name).stat().st_size
        if found != expected:
            raise DamagedError(self.folder, name, f"expected {expected:,} bytes, found {found:,}")

    def damaged_blocks(self, name: str) -> list[int]:
        """The blocks of a file that are not what was written; it is read from end to end. Raises DamagedError."""
        self.check_size(name, self.of[name][0])
        found = np.frombuffer(_hash_file(self.folder / name), np.uint8).reshape(-1, HASH_BYTES)
        return np.flatnonzero((found != self.table(name)).any(axis=1)).tolist()

    def check_whole(self, name: str) -> None:
        """All of a small file is as it was written. Raises DamagedError."""
        if blocks := self.damaged_blocks(name):
            raise DamagedError(self.folder, name, block_problem(blocks[0], self.of[name][0]))


def block_problem(block: int, n_bytes: int) -> str:
    low = block * BLOCK_BYTES
    return f"bytes {low:,} to {min(low + BLOCK_BYTES, n_bytes) - 1:,} are not what was written"


@contextmanager
def as_damage(folder: Path, name: str) -> Iterator[None]:
    """Turn what is wrong with one file into a DamagedError that names it."""
    try:
        yield
    except DamagedError:
        raise
    except (NotFoundError, FileNotFoundError) as error:
        raise DamagedError(folder, name, "this file is missing") from error
    except OSError as error:
        raise DamagedError(folder, name, f"it cannot be read ({error.strerror})") from error
    except FormatError as error:
        raise DamagedError(folder, name, str(error).removeprefix(f"{folder / name}: ")) from error
