"""One pass over the corpus for several SAEs, from the check before it to the merged evidence."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from labeler.evidence.gather import gather_shard
from labeler.evidence.merge import is_merged, merge_shards
from labeler.evidence.patching import write_losses
from labeler.evidence.prepare import prepare
from labeler.evidence.progress import Progress, no_progress
from labeler.evidence.target import Target
from labeler.recipe import GatherConfig
from labeler.subject.corpus import Corpus
from labeler.subject.model import Subject


def gather_for_all(
    subject: Subject,
    targets: Mapping[Path, Target],
    corpus: Corpus,
    config: GatherConfig,
    *,
    shard: tuple[int, int] = (1, 1),
    memory_bytes: int | None = None,
    neighbours: bool | None = None,
    cross_entropy_tokens: int = 0,
    force: bool = False,
    on_progress: Progress | None = None,
) -> None:
    """Gather for several SAEs, by evidence folder: the corpus goes through the subject once for all of them."""
    began, progress = time.monotonic(), on_progress or no_progress
    tokenized = prepare(targets, subject, corpus, config, neighbours=neighbours, force=force, on_progress=progress)
    if cross_entropy_tokens:
        for i, (out, target) in enumerate(targets.items()):
            progress("cross-entropy", i, len(targets))
            write_losses(out, subject, target, tokenized, config, cross_entropy_tokens)
            progress("cross-entropy", i + 1, len(targets))
    unread = {out: target for out, target in targets.items() if not is_merged(out)}
    if unread:
        gather_shard(subject, unread, tokenized, config, shard=shard, memory_bytes=memory_bytes, on_progress=progress)
    if shard == (1, 1):
        for i, out in enumerate(unread):
            progress("merge", i, len(unread))
            merge_shards(out, seconds=time.monotonic() - began)
            progress("merge", i + 1, len(unread))
