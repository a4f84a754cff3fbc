"""Which format a path holds is decided by looking at the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from labeler.demo import PATHS
from labeler.errors import FormatError, InputError, NotFoundError
from labeler.files import check_folder, check_regular
from labeler.recipe import check_dtype
from labeler.sae import dictionary_learning, gemma_scope, saelens, sparsify
from labeler.sae.files import checked
from labeler.sae.hub import download
from labeler.sae.openai import read_openai
from labeler.sae.sae import SAE, Selection, Source

_READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], SAE]]] = {
    saelens.WEIGHTS: (saelens.is_saelens, saelens.read_saelens),
    sparsify.WEIGHTS: (sparsify.is_sparsify, sparsify.read_sparsify),
    dictionary_learning.WEIGHTS: (
        dictionary_learning.is_dictionary_learning,
        dictionary_learning.read_dictionary_learning,
    ),
    gemma_scope.WEIGHTS: (gemma_scope.is_gemma_scope, gemma_scope.read_gemma_scope),
}


def load_sae(name: str, *, hookpoint: str | None = None, dtype: str = "float32", device: str = "cpu") -> SAE:
    """The SAE at a path, or at `hf:REPO/PATH@REVISION` or `sae-lens:RELEASE/ID`, or the demo's by its name, ready to encode.

    `hookpoint` chooses where a folder holds several. Raises NotFoundError, FormatError or InputError.
    """
    computed = getattr(torch, check_dtype(dtype))
    revision = None
    if name in PATHS:
        path = PATHS[name]
    elif name.startswith(("hf:", "sae-lens:")):
        path, revision = download(name)
    else:
        path = Path(name).expanduser()
    if not path.exists():
        raise NotFoundError(
            f"SAE {name!r}: no such file or folder; give a path, `hf:REPO/PATH` or `sae-lens:RELEASE/ID`"
        )
    sae = checked(_read(path, hookpoint))
    if revision is not None:
        sae = replace(sae, source=replace(sae.source, revision=revision))
    if name in PATHS:
        sae = replace(sae, source=replace(sae.source, path=Path(name)))
    return to(sae, computed, device)


def _read(path: Path, hookpoint: str | None) -> SAE:
    if path.is_dir():
        check_folder(path)
    else:
        check_regular(path)
        if path.suffix == ".pt" and path.name != dictionary_learning.WEIGHTS:
            return read_openai(path)
        if path.name in _READERS:
            return _READERS[path.name][1](path.parent)
        raise FormatError(f"SAE {path}: not a file that we know; looked for {', '.join(_READERS)} or OpenAI's .pt")
    for recognises, read in _READERS.values():
        if recognises(path):
            return read(path)
    pt_files = [p for p in sorted(path.glob("*.pt")) if p.stem.isdecimal()]
    if len(pt_files) == 1:
        return read_openai(pt_files[0])
    if pt_files:
        raise InputError(
            f"SAE {path}: holds several SAEs ({', '.join(p.name for p in pt_files)}); give one of these files"
        )
    return _read(_one_below(path, hookpoint), None)


def _one_below(folder: Path, hookpoint: str | None) -> Path:
    """The only SAE in the folders below, or the one whose folder is called after the hookpoint or the end of it."""
    below = {p.parent for name in _READERS for p in folder.rglob(name)}
    chosen = [p for p in below if hookpoint is None or f".{hookpoint}".endswith(f".{p.relative_to(folder).as_posix()}")]
    if len(chosen) == 1:
        return chosen[0]
    if not below:
        raise FormatError(
            f"SAE {folder}: no SAE here; looked for {', '.join(_READERS)} and OpenAI's .pt, also in folders below"
        )
    names = ", ".join(sorted(p.relative_to(folder).as_posix() for p in below))
    found = f"holds several SAEs ({names})" if hookpoint is None else f"holds no SAE of {hookpoint!r}, but of {names}"
    raise InputError(f"SAE {folder}: {found}; choose one with --hookpoint, or give its folder")


def identity_sae(d: int, hookpoint: str) -> SAE:
    """The neurons of a module's output as features: encoder and decoder are the identity, negative values do not fire."""
    return SAE(
        torch.eye(d), torch.zeros(d), torch.eye(d), torch.zeros(d), Selection("relu"), "neurons",
        Source(Path("neurons"), "neurons", f"identity-{d}"), hookpoint=hookpoint,
    )  # fmt: skip


def to(sae: SAE, dtype: torch.dtype, device: str) -> SAE:
    """The SAE on `device`, its encoder in `dtype`. All else stays float32: a rounded threshold is another SAE."""

    def move(value: object) -> object:
        return value.to(device) if isinstance(value, torch.Tensor) else value

    moved = {name: move(value) for name, value in vars(sae).items()}
    moved["selection"] = Selection(**{name: move(value) for name, value in vars(sae.selection).items()})  # type: ignore[arg-type]
    moved |= {"w_enc": sae.w_enc.to(device, dtype), "b_enc": sae.b_enc.to(device, dtype)}
    return SAE(**moved)  # type: ignore[arg-type]
