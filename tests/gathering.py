"""Gathering for tests: the real pass over planted files."""

from __future__ import annotations

from pathlib import Path

from labeler.evidence.target import choose_target
from labeler.pipeline import gather_for_all
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
) -> Path:
    subject = load_subject(str(planted.subject))
    targets = {out: choose_target(subject, load_sae(str(planted.sae)), None)}
    corpus = open_corpus(str(planted.corpus))
    gather_for_all(subject, targets, corpus, config, shard=shard, memory_bytes=memory_bytes)
    return out
