"""Write files whole or not at all, and arrays in pieces; read only what is safe to read."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import stat
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from labeler.errors import FormatError, InputError, NotFoundError, StorageError

SMALL = 16 << 20  # bytes: a configuration, card, manifest or recipe is far smaller
_DEEPEST = 100  # levels of nesting
_MOST_TIMES, _ANY_SIZE = 50, 64 << 20  # an archive may unpack to so many times its size, or to so many bytes
_LONG_KEY = re.compile(rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_DEEPEST}}}""", re.ASCII)
_DEEPER = {"[": 1, "{": 1, "]": -1, "}": -1}
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def clear_disk_errors(what: str | Path) -> Iterator[None]:
    """Turn a full or read-only disk into a StorageError that names `what`."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise StorageError(
                f"cannot write {what}: {os.strerror(error.errno)}; free some space or choose another place. "
                "What was written before is kept, and the same command continues from it"
            ) from error
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, which is at `path` once the block ends well.

    A reader sees the old one or the new one, also after a power cut. Raises StorageError.
    """
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write `path` as a `whole_file`."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a folder to write into, which is at `path` once the block ends well; an error leaves nothing.

    Raises InputError where `path` holds something, and StorageError.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is in use: name a new or empty folder")
    with partial_folder(path) as partial:
        yield partial
        put_in_place(partial, path)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder beside `path`, to be `put_in_place` within the block; else it is gone when the block ends."""
    partial = path.with_name(path.name + ".partial")
    with clear_disk_errors(path):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, path: Path) -> None:
    if path.exists():
        path.rmdir()
    partial.rename(path)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def strict_json(value: Any, indent: int | None = None) -> str:
    """Write JSON without NaN, which would be a bug of ours and which no other reader would take."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def check_regular(path: Path) -> None:
    """Refuse everything but regular files: reading a FIFO waits for a writer for ever, and a device has no end.

    Raises NotFoundError or FormatError.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise NotFoundError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode):
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a device")
        raise FormatError(f"{path} is {kind}; expected a regular file")


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but regular files and folders. Raises FormatError naming what it is."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_dir():
            check_regular(path)


def check_inside(path: Path, root: Path) -> None:
    """Refuse a file or folder if any part lies outside `root` once links are followed. Raises InputError."""
    root = root.resolve()
    for part in (path, *(path.rglob("*") if path.is_dir() else ())):
        if not part.resolve().is_relative_to(root):
            raise InputError(f"{part} leads out of {root}: put the file itself there, and no link")


def check_archive(path: Path) -> None:
    """Refuse a zip archive (.npz, .pt, .bin) that unpacks to far more than its size: numbers hardly shrink, bombs do.

    Raises NotFoundError or FormatError.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return  # another format, or damaged: its reader says so
    packed = path.stat().st_size
    if unpacked > _ANY_SIZE and unpacked > _MOST_TIMES * packed:
        raise FormatError(f"{path}: refused: {packed:,} bytes that unpack to {unpacked:,}, which no weights do")


def read_small(path: Path, most: int = SMALL) -> bytes:
    """Read a small regular file. Raises NotFoundError or FormatError."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(data) > most:
        raise FormatError(f"{path} is larger than {most >> 10:,} KiB, which no file of its kind is")
    return data


def read_json(path: Path, most: int = SMALL) -> Any:
    """Return the value in a small JSON file, of bounded depth. Raises NotFoundError or FormatError."""
    return parse_json(read_small(path, most), str(path))


def parse_json(data: bytes | str, where: str) -> Any:
    """Return the value in a JSON text, of bounded depth. Raises FormatError."""
    try:
        value = json.loads(data)
    except RecursionError:
        raise FormatError(f"{where}: nested deeper than {_DEEPEST} levels") from None
    except ValueError as error:
        raise FormatError(f"{where}: damaged, not JSON ({error})") from error
    return _not_too_deep(value, where)


def parse_yaml(text: str, where: str) -> Any:
    """The value in a YAML text, of bounded depth, in which no part stands for another. Raises FormatError."""
    import yaml

    check_brackets(text, where)
    try:
        # A part that is named again and again is small until a message writes it out.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise FormatError(f"{where}: names a part again (*name), which is not read: write it out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{where} is damaged, not YAML ({str(error).partition(chr(10))[0][:200]})") from error


def check_brackets(text: str, where: str) -> None:
    """Refuse YAML of deep brackets: its time grows with the square of the depth, 5 s for 30 kB. Raises FormatError."""
    if max(accumulate(_DEEPER.get(c, 0) for c in text), default=0) > _DEEPEST:
        raise FormatError(f"{where}: nested deeper than {_DEEPEST} levels")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the table in a TOML text, of bounded depth. Raises FormatError."""
    # Looked for first: tomllib's time and memory grow with the square of a key's parts, 86 s for one of 64 kB.
    if _LONG_KEY.search(text):
        raise FormatError(f"{where}: a key of more than {_DEEPEST} parts; no key of ours has more than three")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise FormatError(f"{where}: nested deeper than {_DEEPEST} levels") from None
    except ValueError as error:  # also of numbers with too many digits
        raise FormatError(f"{where}: not TOML: {error}") from None
    _not_too_deep(value, where)
    return value


def _not_too_deep(value: Any, where: str) -> Any:
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [part for held in level for part in _parts(held)]
        if not level:
            return value
    raise FormatError(f"{where}: nested deeper than {_DEEPEST} levels")


def _parts(value: Any) -> list[Any]:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [part for part in held if isinstance(part, dict | list)]


class NpyWriter:
    """A one-dimensional `.npy` file of unknown length, written in pieces; closing it writes the length."""

    def __init__(self, path: Path, dtype: np.dtype | type | str) -> None:
        self.path, self.dtype, self.n = path, np.dtype(dtype), 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads its header so that the length can grow in place (numpy.lib.format, GROWTH_AXIS_MAX_DIGITS).
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.n,)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, values: np.ndarray) -> None:
        # Not ndarray.tofile: on a full disk it can lose what it had buffered without an error.
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self.n += len(values)

    def close(self) -> None:
        self._file.flush()
        end = self._file.tell()
        self._file.seek(0)
        self._write_header()
        self._file.seek(end)
        self._file.close()

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def save_npy(path: Path, array: np.ndarray) -> None:
    """`np.save`, with the error of a full disk that it can swallow."""
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).data)


def map_npy(path: Path) -> np.ndarray:
    """Return a memory-mapped view of a `.npy` file. Raises FormatError naming the file."""
    try:
        check_regular(path)
        return _mapped(path)
    except FileNotFoundError as error:
        raise FormatError(f"{path}: this file is missing; the folder is incomplete") from error
    except FormatError:
        raise
    except Exception as error:  # a damaged header is read as Python's literals, which fails in many ways
        raise FormatError(f"{path}: damaged or cut short ({error})") from error


def _mapped(path: Path) -> np.ndarray:
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return mapped
    except ValueError as error:
        if "empty" not in str(error):  # an array without elements cannot be mapped, and need not be
            raise
        return np.asarray(np.load(path, allow_pickle=False))


def give_back_free_memory() -> None:
    """Hand the C library's free pages back to the system, where it can (glibc); elsewhere nothing happens.

    Long-lived arrays are allocated between those of a batch, and the holes that the batch leaves add up.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
