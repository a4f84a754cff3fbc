"""Hash the files of an evidence folder, so that readers can compare what they read with what was written.

    manifest.json          "files": of each file its size, that of its header, and the hash of its blocks' hashes;
                           "digest": of the manifest itself
    hashes-<digest>.npy    [n_blocks, 16] of the blocks of each file, in the order of "files"

The header of an array is a block of its own, and its elements are cut into blocks of 8 KiB. Blocks are cut by bytes,
not by features, so that one read of a feature of any size hashes only the blocks that hold it. The hashes take 0.2% of
the room. They are SHA-256, cut to 128 bits: the fastest strong hash of the standard library on processors that support
it. A checksum that can be forged would not do, since evidence travels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labeler.errors import DamagedError, FormatError, NotFoundError
from labeler.files import check_regular, map_npy, save_npy

BLOCK_BYTES = 1 << 13  # 1,024 counts
HASH_BYTES = 16
_ALGORITHM = "sha256-128"
_PATTERNS = (
    "vocabulary.*.npy",
    "token_counts.npy",
    "statistics.*.npy",
    "random.*.npy",
    "output.*.npy",
    "neighbours.*.npy",
    "contexts/*.npy",
    "corpus/*.npy",
    "corpus/corpus.json",
    "corpus/document_ids.jsonl",
)


def hash_of(block: Any) -> bytes:
    return hashlib.sha256(block).digest()[:HASH_BYTES]


@dataclass(frozen=True)
class Cut:
    """The cut of a file into blocks: its header, where it has one, and then equal parts."""

    n_bytes: int
    header: int

    @property
    def n_blocks(self) -> int:
        return (self.header > 0) + -(-(self.n_bytes - self.header) // BLOCK_BYTES)

    def bounds(self, block: int) -> tuple[int, int]:
        """Return the first byte of a block, and the first byte after it."""
        if self.header and block == 0:
            return 0, self.header
        low = self.header + (block - (self.header > 0)) * BLOCK_BYTES
        return low, min(low + BLOCK_BYTES, self.n_bytes)

    def problem(self, block: int) -> str:
        low, high = self.bounds(block)
        return f"bytes {low:,} to {high - 1:,} are not what was written"


def cut_of(path: Path) -> Cut:
    n_bytes = path.stat().st_size
    if path.suffix != ".npy":
        return Cut(n_bytes, 0)
    with path.open("rb") as file:
        start = file.read(12)
    # numpy.lib.format: magic, version, and the length of what follows, of 2 bytes in version 1 and of 4 after it.
    width = 2 if start[6] == 1 else 4
    return Cut(n_bytes, 8 + width + int.from_bytes(start[8 : 8 + width], "little"))


def covered_files(folder: Path) -> list[str]:
    """Return the names of all files that hashes cover, sorted."""
    return sorted(p.relative_to(folder).as_posix() for pattern in _PATTERNS for p in folder.glob(pattern))


def seal(folder: Path, known: dict[str, Any] | None) -> dict[str, Any]:
    """Write the hashes of all files and return "files" of the manifest; `known` is its previous value."""
    # A file that has hashes keeps them: hashed again, any damage since then would count as right.
    tables = dict(_tables(folder, known)) if known else {}
    names = covered_files(folder)
    for name in names:
        if name not in tables:
            cut = cut_of(folder / name)
            tables[name] = cut, b"".join(_hash_blocks(folder / name, cut))
    tables = {name: tables[name] for name in sorted(tables)}
    whole = b"".join(table for _, table in tables.values())
    hashes = f"hashes-{hashlib.sha256(whole).hexdigest()[:16]}.npy"
    if not known or known["hashes"] != hashes:
        save_npy(folder / hashes, np.frombuffer(whole, dtype=np.uint8).reshape(-1, HASH_BYTES))
    of = {name: [cut.n_bytes, cut.header, hash_of(table).hex()] for name, (cut, table) in tables.items()}
    return {"hash": _ALGORITHM, "block_bytes": BLOCK_BYTES, "hashes": hashes, "of": of}


def _tables(folder: Path, known: dict[str, Any]) -> Iterator[tuple[str, tuple[Cut, bytes]]]:
    hashes = Hashes(folder, {"files": known})
    for name, (cut, _) in hashes.of.items():
        yield name, (cut, hashes.table(name).tobytes())


def _hash_blocks(path: Path, cut: Cut) -> Iterator[bytes]:
    with path.open("rb") as file:
        if cut.header:
            yield hash_of(file.read(cut.header))
        while data := memoryview(file.read(256 * BLOCK_BYTES)):
            for low in range(0, len(data), BLOCK_BYTES):
                yield hash_of(data[low : low + BLOCK_BYTES])


class Hashes:
    """The hashes of one evidence folder, read from its manifest.

    Raises DamagedError where they are damaged themselves.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        files = manifest["files"]
        self.of: dict[str, tuple[Cut, bytes]] = {}
        self._first: dict[str, int] = {}
        n_blocks = 0
        for name, (n_bytes, header, digest) in files["of"].items():
            self.of[name], self._first[name] = (Cut(n_bytes, header), bytes.fromhex(digest)), n_blocks
            n_blocks += self.of[name][0].n_blocks
        self.name = str(files["hashes"])
        with as_damage(folder, self.name):
            self._table = map_npy(folder / self.name)
        if self._table.shape != (n_blocks, HASH_BYTES) or self._table.dtype != np.uint8:
            raise DamagedError(
                folder, self.name, f"expected the hashes of {n_blocks:,} blocks, found {self._table.shape}"
            )

    def table(self, name: str) -> np.ndarray:
        """Return the hashes [n_blocks, 16] of one file. Raises DamagedError."""
        (cut, digest), first = self.of[name], self._first[name]
        table = self._table[first : first + cut.n_blocks]
        if hash_of(np.ascontiguousarray(table)) != digest:
            raise DamagedError(self.folder, self.name, f"the hashes of {name} in it do not fit the manifest")
        return table

    def check_sizes(self) -> None:
        """Check that each file is there, is a regular file, and is as long as it was. Raises DamagedError."""
        for name in self.of:
            self.check_size(name)

    def check_size(self, name: str) -> None:
        expected = self.of[name][0].n_bytes
        with as_damage(self.folder, name):
            check_regular(self.folder / name)
            found = (self.folder / name).stat().st_size
        if found != expected:
            raise DamagedError(self.folder, name, f"expected {expected:,} bytes, found {found:,}")

    def damaged_blocks(self, name: str) -> list[int]:
        """Return the blocks of a file that are not what was written. Reads the whole file. Raises DamagedError."""
        self.check_size(name)
        table = self.table(name)
        blocks = enumerate(_hash_blocks(self.folder / name, self.of[name][0]))
        return [i for i, found in blocks if found != table[i].tobytes()]

    def check_whole(self, name: str) -> None:
        """Check that all of a small file is as it was written. Raises DamagedError."""
        if blocks := self.damaged_blocks(name):
            raise DamagedError(self.folder, name, self.of[name][0].problem(blocks[0]))


@contextmanager
def as_damage(folder: Path, name: str) -> Iterator[None]:
    """Turn an error over one file into a DamagedError that names the file."""
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
