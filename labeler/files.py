"""Files that are written whole or not at all, and arrays that are written in pieces."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from labeler.errors import FormatError, InputError, NotFoundError, StorageError

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
    """A file to write, which is at `path` once the block ends well: a reader sees the old one or the new one, also after a
    power cut. Raises StorageError."""
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
    """A folder to write into, which is at `path` once the block ends well; after an error nothing is left of it.

    Raises InputError where `path` holds something, and StorageError.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is in use: name a new or empty folder")
    with partial_folder(path) as partial:
        yield partial
        put_in_place(partial, path)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, to be `put_in_place` within the block; else it is gone when that ends."""
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
    """Without NaN, which is a bug of ours and which no other reader would take."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def read_json(path: Path) -> Any:
    """Raises NotFoundError, or FormatError naming the file."""
    try:
        check_regular(path)
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: damaged, not JSON ({error})") from error


def check_regular(path: Path) -> None:
    """Refuse folders and devices before they are opened: a pipe would be waited for. Raises FormatError."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise FormatError(f"{path}: expected a file, found {found}")


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
    """A memory-mapped view of a `.npy` file. Raises FormatError naming the file."""
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
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "empty" not in str(error):  # an array without elements cannot be mapped, and need not be
            raise
        return np.load(path, allow_pickle=False)


def give_back_free_memory() -> None:
    """Hand the C library's free pages back to the system, where it can (glibc); elsewhere nothing happens.

    Arrays that stay for long are allocated between those of a batch, and the holes that these leave add up.
    """
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
