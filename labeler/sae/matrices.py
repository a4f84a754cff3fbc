"""Work on matrices that lie in a mapped file and may fill the memory: part by part, so that none is copied twice.

A reader leaves a matrix as the file holds it, in its own dtype and perhaps transposed; it becomes float32, or what the
encoder computes in, when it is moved to its device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_PART = 1 << 20  # values converted together: 4 MB in float32


def moved(value: Tensor, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    """Return the values on `device`, in `dtype` and in order of rows; a mapped matrix that fits as it is stays mapped."""
    if value.ndim < 2:
        return value.to(device, dtype)
    is_there = value.dtype == dtype and torch.device(device).type == value.device.type
    if is_there and value.is_contiguous() and value.data_ptr() % value.element_size() == 0:
        return value
    return _changed(value, dtype, device, lambda part: part)


def times(value: Tensor, factor: Tensor | float) -> Tensor:
    """Return a matrix times `factor`, one number or [rows, 1], in float32."""
    return _changed(value, torch.float32, value.device, lambda part: part.float() * factor)


def over(value: Tensor, divisor: Tensor | float) -> Tensor:
    """Return a matrix divided by `divisor`, one number or [rows, 1], in float32."""
    return _changed(value, torch.float32, value.device, lambda part: part.float() / divisor)


def row_norms(value: Tensor) -> Tensor:
    """Return the norm of each row, [rows, 1] in float32, at least 1e-8 so that a row of zeros can be divided by it."""
    squares = torch.zeros(len(value), dtype=torch.float64, device=value.device)
    for rows, columns in _parts(value):
        squares[rows] += value[rows, columns].float().square().sum(dim=1, dtype=torch.float64)
    return squares.sqrt().float()[:, None].clamp_min(1e-8)


def unit_decoder(w_enc: Tensor, b_enc: Tensor, w_dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same SAE with decoder rows of norm 1 and activations scaled to match; a row of zeros stays one."""
    norm = row_norms(w_dec)
    return times(w_enc, norm), b_enc * norm[:, 0], over(w_dec, norm)


def is_finite(value: Tensor) -> bool:
    """Return False where a tensor holds NaN or infinity."""
    if value.ndim < 2:
        return bool(torch.isfinite(value).all())
    return all(bool(torch.isfinite(value[part]).all()) for part in _parts(value))


def _changed(
    value: Tensor, dtype: torch.dtype, device: str | torch.device, change: Callable[[Tensor], Tensor]
) -> Tensor:
    out = torch.empty(value.shape, dtype=dtype, device=device)
    for part in _parts(value):
        out[part] = change(value[part])
    return out


def _parts(value: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut along the axis that runs through the file, so that each of its pages is read once."""
    axis = 0 if value.stride(0) >= value.stride(1) else 1
    step = max(1, _PART // max(1, value.numel() // value.shape[axis]))
    for low in range(0, value.shape[axis], step):
        part = slice(low, low + step)
        yield (part, slice(None)) if axis == 0 else (slice(None), part)
