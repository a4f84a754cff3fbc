"""Gathering for tests: the real pass over planted files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from labeler.evidence.gather_all import gather_for_all
from labeler.evidence.manifest import read_manifest, write_manifest
from labeler.evidence.target import choose_target
from labeler.recipe import GatherConfig
from labeler.sae import load_sae
from labeler.subject.corpus import open_corpus
from labeler.subject.model import load_subject
from tests.planted import Planted

# Small chunks, so that this small corpus has many of them to shard and to resume at.
CONFIG = GatherConfig(sequence_tokens=96, n_random=(256, 256), chunk_tokens=2048)


def gather(
    planted: Planted,
    out: Path,
    config: GatherConfig = CONFIG,
    shard: tuple[int, int] = (1, 1),
    memory_bytes: int | None = None,
    force: bool = False,
) -> Path:
    subject = load_subject(str(planted.subject))
    targets = {out: choose_target(subject, load_sae(str(planted.sae)), None)}
    corpus = open_corpus(str(planted.corpus))
    gather_for_all(subject, targets, corpus, config, shard=shard, memory_bytes=memory_bytes, force=force)
    return out


def change_manifest(evidence: Path, **changed: Any) -> None:
    """Say something else in the manifest, as if it had been gathered so."""
    write_manifest(evidence, {**read_manifest(evidence), **changed})


def without_directions(evidence: Path, copy: Path, *patterns: str) -> Path:
    """A copy of evidence whose pass wrote nothing about the decoder, or nothing of these patterns."""
    shutil.copytree(evidence, copy)
    for pattern in patterns or ("output.*.npy", "neighbours.*.npy"):
        for path in copy.glob(pattern):
            path.unlink()
    manifest = read_manifest(copy)
    del manifest["files"]
    write_manifest(copy, manifest)
    return copy


def without_hashes(evidence: Path, copy: Path) -> Path:
    """A copy of evidence as earlier versions wrote it."""
    shutil.copytree(evidence, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"], manifest["digest"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    for path in copy.glob("hashes-*.npy"):
        path.unlink()
    return copy
