"""A large SAE is loaded with one copy of what must be copied, and none of what its file holds as it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

_D, _FEATURES = 512, 16_384
_MATRIX = 4 * _D * _FEATURES  # 32 MB in float32
# Where all else is free: an import, the allocator's leavings, one part that is being converted.
_ROOM = 28 << 20
_LOAD = """
import os, sys, threading, time
from pathlib import Path
import torch
from labeler.sae.load import load_sae
import labeler.sae.formats, labeler.sae.registry, safetensors.torch, numpy

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

def load(path, dtype):
    before, most, done = held(), 0, threading.Event()
    def watch():
        nonlocal most
        while not done.wait(0.001):
            most = max(most, held())
    watcher = threading.Thread(target=watch)
    watcher.start()
    sae = load_sae(path, dtype=dtype)
    done.set()
    watcher.join()
    print(max(most, held()) - before, float(sae.w_enc[-1].float().sum()), float(sae.w_dec[-1].sum()), flush=True)

for path, dtype in zip(sys.argv[1::2], sys.argv[2::2]):
    if os.fork() == 0:  # a process of its own for each, which imports nothing
        load(path, dtype)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def _matrix(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values that every dtype holds exactly; [F, d]."""
    return torch.randint(-8, 8, (_FEATURES, _D), generator=torch.Generator().manual_seed(seed)).to(dtype) / 64


def _biases() -> dict[str, torch.Tensor]:
    return {"b_enc": torch.zeros(_FEATURES), "b_dec": torch.zeros(_D)}


def saelens(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    tensors = {"W_enc": _matrix(1, dtype).T.contiguous(), "W_dec": _matrix(2, dtype), **_biases()}
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard", "apply_b_dec_to_input": False}))
    return folder


def saelens_in_half(folder: Path) -> Path:
    return saelens(folder, torch.bfloat16)


def gemma_scope(folder: Path) -> Path:
    tensors = {"W_enc": _matrix(1).T.contiguous(), "W_dec": _matrix(2), **_biases(), "threshold": torch.ones(_FEATURES)}
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in tensors.items()})
    return folder / "params.npz"


def qwen_scope(folder: Path) -> Path:
    path = folder / "layer3.sae.pt"
    torch.save({"W_enc": _matrix(1), "W_dec": _matrix(2).T.contiguous(), **_biases()}, path)
    (folder / "config.json").write_text('{"k": 8}')
    return path


def sparsify(folder: Path) -> Path:
    tensors = {"encoder.weight": _matrix(1), "encoder.bias": torch.zeros(_FEATURES), "W_dec": _matrix(2)}
    save_file({**tensors, "b_dec": torch.zeros(_D)}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text('{"k": 8}')
    return folder


# The writer, the encoder's dtype, and how many matrices of float32 must be copied.
_CASES: list[tuple[Callable[[Path], Path], str, float]] = [
    (sparsify, "float32", 0.0),
    (saelens, "float32", 1.0),  # the encoder lies in the file the other way round
    (gemma_scope, "float32", 2.0),  # and an archive of numpy's begins its arrays at any byte
    (qwen_scope, "float32", 1.0),
    (saelens_in_half, "float32", 2.0),
    (saelens_in_half, "bfloat16", 1.5),
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process holds is read from Linux's /proc")
def test_loading_copies_each_matrix_once_at_most(tmp_path: Path) -> None:
    words = []
    for i, (write, dtype, _) in enumerate(_CASES):
        folder = tmp_path / str(i)
        folder.mkdir()
        words += [str(write(folder)), dtype]
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, *words], capture_output=True, text=True, check=True, timeout=300
    )
    last = [float(_matrix(seed)[-1].sum()) for seed in (1, 2)]
    for (write, dtype, copies), line in zip(_CASES, done.stdout.splitlines(), strict=True):
        held, *read = (float(word) for word in line.split())
        assert read == last
        says = f"{write.__name__} in {dtype}: {held / 2**20:.0f} MB above what the process held before"
        assert held <= copies * _MATRIX + _ROOM, says
