"""Weight files read without executing anything from them, and checked before they are believed."""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeler.errors import FormatError, NotFoundError
from labeler.files import check_archive, check_regular, parse_yaml, read_json, read_small
from labeler.sae.matrices import is_finite
from labeler.sae.sae import SAE, Source

_SMALL_ARRAY = 1 << 20  # bytes: one that is read and not mapped
_MOST_YAML = 64 << 10  # bytes: a configuration has one thousand, and YAML reads some 50,000 a second
# All that torch, numpy and zipfile raise over a damaged file, and our readers over one of another kind than it looks.
DAMAGED = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    EOFError,
    OSError,
    MemoryError,
    ArithmeticError,
    struct.error,
    zipfile.BadZipFile,
)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_regular(path)
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"SAE {path}: no such file") from error
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise FormatError(f"SAE {path}: damaged or cut short, not readable as safetensors ({error})") from error


def read_pt(path: Path) -> dict[str, Any]:
    """A torch file, with weights_only=True: a file that needs more would run code, and is refused."""
    import pickle
    import warnings

    check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a damaged file torch first says that its version is unusual
            value = torch.load(path, weights_only=True, map_location="cpu", mmap=_can_be_mapped(path))
    except FileNotFoundError as error:
        raise NotFoundError(f"SAE {path}: no such file") from error
    except pickle.UnpicklingError as error:
        # What is no pickle at all fails in the same way as a pickle that asks for more than tensors.
        raise FormatError(
            f"SAE {path}: refused: it is damaged, or reading it would execute code from the file; save it again as a plain "
            "state dict, or as safetensors"
        ) from error
    except DAMAGED as error:
        raise FormatError(f"SAE {path}: damaged or cut short ({str(error).partition(chr(10))[0]})") from error
    if not isinstance(value, dict):
        raise FormatError(f"SAE {path}: expected a state dict, found {type(value).__name__}")
    return dict(value)


def _can_be_mapped(path: Path) -> bool:
    """Return True for an archive whose parts are stored as they are; a mapped part is taken for numbers without a look."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(part.compress_type == zipfile.ZIP_STORED for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False  # written by torch before 1.6, or damaged


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an archive of numpy's, those that are not packed mapped into memory."""
    import zlib

    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{broken} is not what was written: its checksum differs")
            return {part.filename.removesuffix(".npy"): _npz_array(path, archive, part) for part in archive.infolist()}
    except FileNotFoundError as error:
        raise NotFoundError(f"SAE {path}: no such file") from error
    except (*DAMAGED, zlib.error) as error:
        raise FormatError(f"SAE {path}: damaged, or needs pickle, which is refused ({error})") from error


def _npz_array(path: Path, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> Tensor:
    import numpy as np

    with archive.open(part) as file:
        if part.compress_type != zipfile.ZIP_STORED or part.file_size < _SMALL_ARRAY:
            return torch.from_numpy(np.lib.format.read_array(file, allow_pickle=False))
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read_header[version](file)
        header = file.tell()
    if dtype.hasobject or header + dtype.itemsize * math.prod(shape) != part.file_size:
        raise ValueError(f"{part.filename} says {dtype} of {shape}, and holds {part.file_size - header:,} bytes")
    with path.open("rb") as raw:
        raw.seek(part.header_offset + 26)  # the lengths of the name and of what follows it
        name, extra = struct.unpack("<HH", raw.read(4))
    start = part.header_offset + 30 + name + extra + header
    array = np.memmap(path, dtype, mode="c", offset=start, shape=shape, order="F" if is_fortran else "C")
    return torch.from_numpy(array)


def read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise NotFoundError(f"SAE: {path} is missing beside the weights")
    try:
        value = read_json(path)
    except (NotFoundError, FormatError) as error:
        raise type(error)(f"SAE: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"SAE: {path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    value = parse_yaml(read_small(path, _MOST_YAML).decode("utf-8", errors="replace"), f"SAE: {path}")
    if not isinstance(value, dict):
        raise FormatError(f"SAE: {path}: expected a YAML mapping, found {type(value).__name__}")
    return value


def as_float(value: Tensor) -> Tensor:
    """The values in float32, without a copy where they are."""
    return value if value.dtype == torch.float32 else value.float()


def listed(names: Iterable[object]) -> str:
    """Names from a file, as far as a message has room: a file can hold any number of them, of any length."""
    found = sorted(map(str, names))
    shown = [name if len(name) <= 80 else f"{name[:80]}…" for name in found[:20]]
    return ", ".join(shown) + (f" and {len(found) - 20} more" if len(found) > 20 else "")


def check_stored(value: Tensor, where: str) -> None:
    """Refuse a tensor of which the file holds less than it says: one number, repeated, can claim any size."""
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise FormatError(f"{where} is stored in a way that no SAE is ({value.layout}, {value.device.type})")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise FormatError(f"{where} says {tuple(value.shape)}, and the file holds fewer numbers")


def positive_int(value: Any, name: str, where: Path) -> int:
    """A count from a configuration or a tensor. Raises FormatError naming it."""
    if value is None:
        raise FormatError(f"SAE {where}: gives no {name}")
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1 or value % 1:
        raise FormatError(f"SAE {where}: {name} is {value!r}; expected a whole number above 0")
    return int(value)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def source_of(path: Path, format_name: str) -> Source:
    return Source(path, format_name, sha256_of(path))


def checked(sae: SAE) -> SAE:
    """Return the SAE if its tensors fit each other. Raises FormatError naming the one that does not."""
    for name, weight in (("encoder weight", sae.w_enc), ("decoder weight", sae.w_dec)):
        if weight.ndim != 2 or 0 in weight.shape:
            raise FormatError(f"SAE {sae.source.path}: {name} has shape {tuple(weight.shape)}, expected a matrix")
    n_features, d_in, d_out = sae.n_features, sae.d_in, int(sae.w_dec.shape[-1])
    s = sae.selection
    per_feature = (n_features,)
    expected = {
        "encoder weight": (sae.w_enc, (n_features, d_in)),
        "encoder bias": (sae.b_enc, per_feature),
        "decoder weight": (sae.w_dec, (n_features, d_out)),
        "decoder bias": (sae.b_dec, (d_out,)),
        "gates": (sae.gates, (sae.n_places, n_features)),
        "skip weight": (sae.w_skip, (sae.d_out, d_in)),
        "threshold": (s.threshold, per_feature if s.threshold is not None and s.threshold.ndim else ()),
        "gate bias": (s.gate_bias, per_feature),
        "magnitude scale": (s.magnitude_scale, per_feature),
        "magnitude bias": (s.magnitude_bias, per_feature),
    }
    for name, (value, shape) in expected.items():
        if value is None:
            continue
        if tuple(value.shape) != shape:
            raise FormatError(f"SAE {sae.source.path}: {name} has shape {tuple(value.shape)}, expected {shape}")
    if d_out % sae.n_places:
        raise FormatError(f"SAE {sae.source.path}: {d_out} columns do not divide into {sae.n_places} places")
    if sae.centred and d_in != d_out:
        raise FormatError(f"SAE {sae.source.path}: b_dec of {d_out} cannot be subtracted from inputs of {d_in}")
    if s.kind in ("topk", "abstopk", "groupmax") and not 0 < s.k <= n_features:
        raise FormatError(f"SAE {sae.source.path}: k is {s.k}; expected 1 to {n_features}")
    if s.kind == "groupmax" and n_features % s.k:
        raise FormatError(f"SAE {sae.source.path}: {n_features} features do not divide into {s.k} groups")
    return sae


def check_finite(sae: SAE) -> None:
    """Raise FormatError naming a tensor that holds NaN or infinity."""
    for holder in (sae, sae.selection):
        for name, value in vars(holder).items():
            if isinstance(value, Tensor) and not is_finite(value):
                raise FormatError(
                    f"SAE {sae.source.path}: {_SPOKEN.get(name, name.replace('_', ' '))} holds NaN or infinity: this training run or "
                    "file is broken"
                )


_SPOKEN = {
    "w_enc": "encoder weight",
    "b_enc": "encoder bias",
    "w_dec": "decoder weight",
    "b_dec": "decoder bias",
    "w_skip": "skip weight",
}
