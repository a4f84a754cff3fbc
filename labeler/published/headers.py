"""Read the names and shapes of tensors from the beginning of a file, without its weights and without executing anything."""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from pathlib import Path

from labeler.errors import FormatError

Shapes = dict[str, tuple[int, ...]]
HEAD = 1 << 16  # bytes of a `.pt` file that hold the names and shapes of any SAE
_ENTRY = struct.Struct("<4s5H3I2H")  # of a zip archive, before the entry's name
_OPENED = (
    "TUPLE",
    "SETITEMS",
    "APPENDS",
    "LIST",
    "DICT",
    "ADDITEMS",
    "FROZENSET",
)  # pickle's operations that end at a mark
_TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE")
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")


def shapes_of_safetensors(path: Path) -> Shapes:
    """The shapes of the tensors of a `.safetensors` file on this machine. Raises FormatError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path} is damaged, not readable as safetensors ({error})") from error


def shapes_of_npz(path: Path) -> Shapes:
    """The shapes of the arrays of a `.npz` file on this machine. Raises FormatError."""
    from numpy.lib import format as arrays

    shapes: Shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                with archive.open(part) as file:
                    read = (
                        arrays.read_array_header_1_0
                        if arrays.read_magic(file) == (1, 0)
                        else arrays.read_array_header_2_0
                    )
                    shapes[part.filename.removesuffix(".npy")] = tuple(read(file)[0])
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise FormatError(f"{path} is damaged, not readable as numpy's arrays ({error})") from error
    return shapes


def check_torch(head: bytes, file: str) -> None:
    """Raise FormatError for a file that does not begin as an archive or a pickle of torch does."""
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise FormatError(f"{file} is no file of torch, or damaged: its beginning is that of no archive")


def shapes_of_pt(head: bytes) -> Shapes:
    """The shapes of the tensors of a torch file, from its first HEAD bytes; none where these do not show them.

    A torch file is an archive whose first entry is the pickle of a state dict. The pickle's operations are read, not followed.
    """
    try:
        signature, *_, method, _, _, _, _, _, n_name, n_extra = _ENTRY.unpack_from(head)
        name = head[_ENTRY.size : _ENTRY.size + n_name]
        if signature != b"PK\x03\x04" or method != 0 or not name.endswith(b"/data.pkl"):
            return {}
        return _shapes_of_pickle(head[_ENTRY.size + n_name + n_extra :])
    except (struct.error, ValueError, LookupError):
        return {}


def _shapes_of_pickle(data: bytes) -> Shapes:
    """A tensor is its key, a reference to its storage in a tuple, the offset there, and its shape in a tuple."""
    shapes: Shapes = {}
    strings: list[str] = [""]
    marks: list[int] = []  # how many strings there were at each mark that is open
    opened = 0
    numbers: list[int] | None = None  # since the reference to a storage
    key = ""
    for operation, value, _ in pickletools.genops(data):
        name = operation.name
        if name == "MARK":
            marks.append(len(strings))
        elif name in _OPENED:
            opened = marks.pop()
        if name.endswith("BINUNICODE"):
            strings.append(str(value))
        elif name == "BINPERSID":
            key, numbers = strings[opened - 1], []
        elif numbers is not None and name in _NUMBERS:
            numbers.append(int(str(value)))
        elif numbers is not None and name in _TUPLES:
            shapes[key.removeprefix("_orig_mod.")], numbers = tuple(numbers[1:]), None
    return shapes
