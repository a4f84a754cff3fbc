"""The rows of a tree, each with its place. A Problem names the file, the line and the rule of a fault.

A reader stops at the first problem. The checker collects problems, and goes on with the next file.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import orjson

from labeler.errors import FormatError
from labeler.neuronpedia.layout import batch_number

LONGEST_LINE = 1 << 26  # bytes; a longer line is no row


@dataclass(frozen=True)
class Problem:
    rule: str
    file: Path
    line: int | None
    what: str

    def __str__(self) -> str:
        where = f"{self.file}" if self.line is None else f"{self.file}, line {self.line}"
        return f"{where}: {self.what} [{self.rule}]"


Report = Callable[[Problem], None]


def refuse(problem: Problem) -> NoReturn:
    """Report a problem for a reader: raise FormatError."""
    raise FormatError(str(problem))


@dataclass(frozen=True)
class Placed:
    """A row with its file and line."""

    file: Path
    line: int
    row: dict[str, Any]

    def problem(self, rule: str, what: str) -> Problem:
        return Problem(rule, self.file, self.line, what)


def read_table(folder: Path, needed: Collection[str], key: str, report: Report) -> Iterator[Placed]:
    """Yield all readable rows of a data folder, in the order of batches. Values of the column `key` are unique."""
    duplicates = Duplicates(key)
    for file in batch_files(folder, report):
        first: frozenset[str] | None = None
        for placed in read_lines(file, report):
            keys = frozenset(placed.row)
            if first is None:
                first = keys
                if missing := [k for k in needed if k not in keys]:
                    report(placed.problem("needed-keys", f"lacks {', '.join(missing)}"))
                    break
            elif keys != first:
                differing = ", ".join(sorted(map(repr, keys ^ first)))
                report(placed.problem("same-keys", f"differs from the first line of the file in {differing}"))
                continue
            duplicates.add(placed)
            yield placed
    duplicates.report(report)


def batch_files(folder: Path, report: Report) -> list[Path]:
    """List the `batch-<n>.jsonl.gz` of a folder by number, from 0 without a gap."""
    numbered: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        number = batch_number(path.name)
        if number is not None and path.is_file():
            numbered[number] = path
        else:
            report(Problem("file-name", path, None, "expected batch-<n>.jsonl.gz: nothing else here is read"))
    if not numbered:
        report(Problem("missing-batch", folder, None, "holds no batch-<n>.jsonl.gz"))
    for number in sorted(set(range(max(numbered, default=-1) + 1)) - set(numbered)):
        report(
            Problem("missing-batch", folder / f"batch-{number}.jsonl.gz", None, "is missing, and later ones are there")
        )
    return [numbered[number] for number in sorted(numbered)]


def read_lines(file: Path, report: Report) -> Iterator[Placed]:
    """Yield the rows of one `.jsonl.gz`, up to the first place that cannot be read."""
    number = 0
    try:
        with gzip.open(file, "rb") as lines:
            while line := lines.readline(LONGEST_LINE):
                number += 1
                if not line.endswith(b"\n") and len(line) == LONGEST_LINE:
                    report(Problem("json", file, number, f"longer than {LONGEST_LINE:,} bytes"))
                    return
                placed = _row(file, number, line, report)
                if placed is not None:
                    yield placed
    except (OSError, EOFError, zlib.error) as error:
        report(Problem("gzip", file, number + 1, f"not a whole gzip file ({error})"))
        return
    if number == 0:
        report(Problem("empty-file", file, None, "holds no line, and their import reads the first one of each file"))


def read_plain(file: Path, report: Report) -> list[Placed]:
    """Yield the rows of a plain `.jsonl`."""
    lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    placed = (_row(file, number, line, report) for number, line in enumerate(lines, start=1))
    return [p for p in placed if p is not None]


def _row(file: Path, number: int, line: bytes, report: Report) -> Placed | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        report(Problem("json", file, number, f"not JSON, or cut ({error})"))
        return None
    if not isinstance(row, dict):
        report(Problem("json", file, number, f"expected an object, found {type(row).__name__}"))
        return None
    return Placed(file, number, row)


class Known:
    """A set of values seen so far. Each takes 8 bytes, for its hash.

    Two of a million values share a 64-bit hash by chance once in 37 million trees.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted = np.zeros(0, np.uint64)

    def add(self, value: object) -> None:
        self._hashes.append(_hash(value))

    def __contains__(self, value: object) -> bool:
        """Look up a value. This is fast if all values are added before the first look-up."""
        if len(self._sorted) != len(self._hashes):
            self._sorted = np.sort(np.frombuffer(self._hashes, dtype=np.uint64))
        sought = np.uint64(_hash(value))
        at = int(np.searchsorted(self._sorted, sought))
        return at < len(self._sorted) and bool(self._sorted[at] == sought)


def _hash(value: object) -> int:
    digest = hashlib.blake2b(str(value).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class Duplicates:
    """Finds values that come twice. Each takes 16 bytes: a hash, as in `Known`, and its line."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._hashes, self._lines = array("Q"), array("Q")
        self._files: list[Path] = []
        self._starts: list[int] = []

    def add(self, placed: Placed) -> None:
        if not self._files or self._files[-1] != placed.file:
            self._files.append(placed.file)
            self._starts.append(len(self._hashes))
        self._hashes.append(_hash(placed.row.get(self.key)))
        self._lines.append(placed.line)

    def report(self, report: Report) -> None:
        hashes = np.frombuffer(self._hashes, dtype=np.uint64) if self._hashes else np.zeros(0, np.uint64)
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        for at in sorted(again.tolist(), key=lambda i: int(order[i + 1])):
            (_, first), (file, line) = (self._place(int(order[i])) for i in (at, at + 1))
            before = self._place(int(order[at]))[0]
            report(Problem("duplicate", file, line, f"the same {self.key!r} as {before.name}, line {first}"))

    def _place(self, ordinal: int) -> tuple[Path, int]:
        file = int(np.searchsorted(self._starts, ordinal, side="right")) - 1
        return self._files[file], int(self._lines[ordinal])
