"""Weights that are mapped into memory are the same numbers as those that are read, whichever way their archive is packed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from labeler.errors import FormatError
from labeler.sae.files import read_npz, read_pt

_LARGE = np.random.default_rng(0).normal(size=(512, 1024)).astype(np.float32)  # 2 MB: mapped where it can be
_ARRAYS = {"W_enc": _LARGE, "W_dec": np.asfortranarray(_LARGE.T), "b_dec": _LARGE[0], "step": np.array(7)}


def _same(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == _ARRAYS.keys()
    for name, value in _ARRAYS.items():
        assert torch.equal(found[name], torch.from_numpy(value)), name


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_numpy_are_what_was_saved(tmp_path: Path, save: object) -> None:
    save(tmp_path / "params.npz", **_ARRAYS)  # type: ignore[operator]
    _same(read_npz(tmp_path / "params.npz"))


def test_changing_a_mapped_array_does_not_change_its_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **_ARRAYS)
    read_npz(tmp_path / "params.npz")["W_enc"].zero_()
    _same(read_npz(tmp_path / "params.npz"))


def test_a_changed_byte_in_a_mapped_array_is_found(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    np.savez(path, **_ARRAYS)
    data = bytearray(path.read_bytes())
    data[1 << 20] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match="checksum"):
        read_npz(path)


def test_an_array_that_says_more_than_its_part_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    np.savez(path, a=_LARGE, b=_LARGE)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    parts["a.npy"] = parts["a.npy"].replace(b"(512, 1024)", b"(768, 1024)")  # would reach into the next part
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(FormatError, match=r"a\.npy says float32 of \(768, 1024\)"):
        read_npz(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_torch_file_that_was_packed_again_is_no_other(tmp_path: Path, packing: int) -> None:
    tensors = {name: torch.from_numpy(value.copy()) for name, value in _ARRAYS.items()}
    torch.save(tensors, tmp_path / "written.pt")
    with (
        zipfile.ZipFile(tmp_path / "written.pt") as written,
        zipfile.ZipFile(tmp_path / "ae.pt", "w", packing) as again,
    ):
        for part in written.infolist():
            again.writestr(part.filename, written.read(part))
    try:
        found = read_pt(tmp_path / "ae.pt")
    except FormatError:
        assert packing == zipfile.ZIP_DEFLATED  # some versions of torch refuse what is packed: no wrong number either
    else:
        _same(found)


def test_a_torch_file_of_the_oldest_kind_is_read(tmp_path: Path) -> None:
    tensors = {name: torch.from_numpy(value.copy()) for name, value in _ARRAYS.items()}
    torch.save(tensors, tmp_path / "ae.pt", _use_new_zipfile_serialization=False)
    _same(read_pt(tmp_path / "ae.pt"))
