"""Weight files read without executing anything from them, and checked before they are believed."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeler.errors import FormatError, NotFoundError
from labeler.files import check_archive, check_regular, parse_yaml, read_json, read_small
from labeler.sae.sae import SAE, Source

_ROWS = 4096  # looked at together
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
            value = torch.load(path, weights_only=True, map_location="cpu")
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


def read_npz(path: Path) -> dict[str, Tensor]:
    import zlib

    import numpy as np

    check_archive(path)
    try:
        # Opened here, since numpy leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except FileNotFoundError as error:
        raise NotFoundError(f"SAE {path}: no such file") from error
    except (*DAMAGED, zlib.error) as error:
        raise FormatError(f"SAE {path}: damaged, or needs pickle, which is refused ({error})") from error


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


def unit_decoder(w_enc: Tensor, b_enc: Tensor, w_dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same SAE with decoder rows of norm 1 and activations scaled to match; a row of zeros stays one."""
    norm = w_dec.norm(dim=1, keepdim=True).clamp_min(1e-8)
    return w_enc * norm, b_enc * norm[:, 0], w_dec / norm


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def source_of(path: Path, format_name: str) -> Source:
    return Source(path, format_name, sha256_of(path))


def checked(sae: SAE) -> SAE:
    """The SAE, if its tensors fit each other and are finite. Raises FormatError naming the one that is not."""
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
        if not _is_finite(value):
            raise FormatError(
                f"SAE {sae.source.path}: {name} holds NaN or infinity: this training run or file is broken"
            )
    if d_out % sae.n_places:
        raise FormatError(f"SAE {sae.source.path}: {d_out} columns do not divide into {sae.n_places} places")
    if sae.centred and d_in != d_out:
        raise FormatError(f"SAE {sae.source.path}: b_dec of {d_out} cannot be subtracted from inputs of {d_in}")
    if s.kind in ("topk", "abstopk", "groupmax") and not 0 < s.k <= n_features:
        raise FormatError(f"SAE {sae.source.path}: k is {s.k}; expected 1 to {n_features}")
    if s.kind == "groupmax" and n_features % s.k:
        raise FormatError(f"SAE {sae.source.path}: {n_features} features do not divide into {s.k} groups")
    return sae


def _is_finite(value: Tensor) -> bool:
    """Return False where a tensor holds NaN or infinity; a large one is read in parts, so that it needs no copy."""
    rows = value if value.ndim else value[None]
    return all(bool(torch.isfinite(part).all()) for part in rows.split(_ROWS))
