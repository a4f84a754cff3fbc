"""Run the gathering pass: every token of the corpus goes through the subject and the encoders, once.

    for each batch:  forward to the last hookpoint ──hidden──► each SAE there ──firings──► what is remembered of it

A pass over a shard works in `<out>/shards/<i>-of-<n>/` (evidence/shard.py), and `merge_shards` (evidence/merge.py)
makes the evidence out of all shards. An unsharded pass is shard 1 of 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labeler.errors import MismatchError
from labeler.evidence.batches import Batch, batches_of_chunk, n_chunks, tokens_of_chunk
from labeler.evidence.merge import shard_folder
from labeler.evidence.progress import Progress, no_progress
from labeler.evidence.reconstruction import JointReconstruction, sources_of
from labeler.evidence.shard import ShardFolder
from labeler.evidence.target import Target, bos_token, kept_tokens
from labeler.files import give_back_free_memory
from labeler.recipe import GatherConfig
from labeler.sae.massive import is_massive
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject
from labeler.subject.sequences import TokenizedCorpus

_QUALITY_EVERY = 8  # chunks; reconstructing all tokens would cost a good part of encoding them
_TRIM_EVERY = 8  # batches
_BYTES_A_FEATURE = 9 << 10  # of contexts in memory: with the counts and what a batch needs, 16 KB per feature in all
_BYTES_OF_A_BATCH = 108 << 20  # which only count where features are few
_BYTES_AT_LEAST = 16 << 20


def gather_shard(
    subject: Subject,
    targets: Mapping[Path, Target],
    corpus: TokenizedCorpus,
    config: GatherConfig,
    *,
    shard: tuple[int, int] = (1, 1),
    checkpoint_seconds: float = 45.0,
    memory_bytes: int | None = None,
    on_progress: Progress = no_progress,
) -> None:
    """Run one shard of the pass for all targets, by evidence folder, from the last checkpoint to the end.

    Contexts beyond `memory_bytes` go to disk at once (default: what keeps all below 16 KB per feature). Returns at once
    if all is complete.
    """
    index, n_shards = shard
    chunks = range(index - 1, n_chunks(corpus, config), n_shards)
    works = [ShardFolder.open(shard_folder(out, shard), corpus, t, config) for out, t in targets.items()]
    n_features = sum(target.sae.n_features for target in targets.values())
    budgets = [memory_bytes or _memory_of(target, n_features) for target in targets.values()]
    bos = _common_bos(subject, list(targets.values()), config)
    first = min(w.next_chunk for w in works)
    total = sum(tokens_of_chunk(corpus, c, config) for c in chunks)
    done = sum(tokens_of_chunk(corpus, c, config) for c in chunks if c < first)
    last_checkpoint, n_batches = time.monotonic(), 0
    on_progress("gather", done, total)
    for chunk in chunks[len([c for c in chunks if c < first]) :]:
        # Targets that were ahead of the others when a run was killed wait for them.
        active = [(w, b) for w, b in zip(works, budgets, strict=True) if w.next_chunk <= chunk]
        for batch in batches_of_chunk(corpus, chunk, config):
            # A layer whose features others need is read with them, even where its own pass was ahead when a run was killed.
            sources = sources_of([w.target for w, _ in active], list(targets.values()))
            read_batch(
                subject,
                corpus,
                batch,
                [w for w, _ in active],
                bos,
                with_quality=chunk % _QUALITY_EVERY == 0,
                sources=sources,
            )
            for work, budget in active:
                if work.state.n_bytes > budget:
                    work.spill()
            done, n_batches = done + batch.n_tokens, n_batches + 1
            if n_batches % _TRIM_EVERY == 0:
                give_back_free_memory()
            on_progress("gather", done, total)
        if time.monotonic() - last_checkpoint > checkpoint_seconds:
            for work, _ in active:
                work.checkpoint(chunk + 1, complete=False)
            last_checkpoint = time.monotonic()
    for work in works:
        if not work.complete:
            work.checkpoint(n_chunks(corpus, config), complete=True)


def _memory_of(target: Target, n_features_of_all: int) -> int:
    """Return the bytes of contexts that one of the pass's SAEs may hold; what a batch needs is there once for all."""
    n_features = target.sae.n_features
    rest = (16 << 10) * n_features_of_all - _BYTES_OF_A_BATCH
    return max(_BYTES_AT_LEAST, min(_BYTES_A_FEATURE * n_features, rest * n_features // n_features_of_all))


def _common_bos(subject: Subject, targets: Sequence[Target], config: GatherConfig) -> int | None:
    found = {bos_token(subject, target.sae, config) for target in targets}
    if len(found) > 1:
        raise MismatchError(
            "some of these SAEs were trained with a BOS token before each sequence and some without: "
            "gather them in two passes"
        )
    return found.pop()


def read_batch(
    subject: Subject,
    corpus: TokenizedCorpus,
    batch: Batch,
    works: Sequence[ShardFolder],
    bos: int | None,
    *,
    with_quality: bool,
    sources: Sequence[Target] = (),
) -> None:
    """Run the subject up to the last hookpoint, once; then encode and remember, for each SAE.

    The features of `sources` are not remembered: they only help to reconstruct.
    """
    ids, mask = batch.padded_ids(corpus.tokens, bos)
    read = [*(w.target for w in works), *(sources if with_quality else ())]
    captured = subject.hidden(torch.from_numpy(ids), _hookpoints(read, with_quality))
    on_tokens = {hookpoint: _on_tokens(hidden, mask) for hookpoint, hidden in captured.items()}
    together = JointReconstruction(read if with_quality else (), on_tokens)
    for work in works:
        kept = _kept(subject, work, torch.from_numpy(ids), torch.from_numpy(mask), bos)
        _remember(subject, batch, work, on_tokens, kept, together, with_quality=with_quality)


def _hookpoints(targets: Sequence[Target], with_quality: bool) -> list[Hookpoint]:
    wanted = [t.hookpoint for t in targets]
    if with_quality:
        wanted += [t.aim for t in targets if t.aim is not None]
    return list(dict.fromkeys(wanted))


def _remember(
    subject: Subject,
    batch: Batch,
    work: ShardFolder,
    on_tokens: Mapping[Hookpoint, Tensor],
    kept: Tensor | None,
    together: JointReconstruction,
    *,
    with_quality: bool,
) -> None:
    target, state = work.target, work.state
    hidden, sae = on_tokens[target.hookpoint], target.sae
    if hidden.shape[-1] != sae.d_in:
        raise MismatchError(
            f"the SAE reads vectors of {sae.d_in}, and {target.hookpoint} of {subject.id} gives {hidden.shape[-1]}: "
            "give the SAE's own subject and hookpoint"
        )
    hidden = _rows(hidden, kept)
    massive = is_massive(hidden, work.massive_norm)
    sparse = together.encode(target, hidden)
    if with_quality and target.aim is not None:
        reconstruction, aim = together.reconstruct(target, sparse, hidden), _rows(on_tokens[target.aim], kept)
        if reconstruction is not None and aim.shape == reconstruction.shape:
            state.quality.update(aim, reconstruction, ordinary=~(massive | is_massive(aim, work.massive_norm_aim)))
    token = sparse.token if kept is None else kept.to(sparse.token.device)[sparse.token]
    state.update(
        batch,
        token.cpu().numpy(),
        sparse.feature.cpu().numpy(),
        sparse.value.float().cpu().numpy(),
        n_read=len(hidden),
        massive=_massive_tokens(massive, kept),
    )


def _kept(subject: Subject, work: ShardFolder, ids: Tensor, mask: Tensor, bos: int | None) -> Tensor | None:
    """Return the tokens of the batch that the SAE reads, as numbers; None where it reads all of them."""
    sae = work.target.sae
    if not sae.excluded_tokens and sae.positions is None:
        return None
    return kept_tokens(subject, sae, ids, work.state.config.sequence_tokens, bos)[mask].nonzero()[:, 0]


def _rows(values: Tensor, kept: Tensor | None) -> Tensor:
    return values if kept is None else values[kept.to(values.device)]


def _massive_tokens(massive: Tensor, kept: Tensor | None) -> np.ndarray:
    """Return the tokens of the batch that are massive, as numbers."""
    found = massive.cpu().nonzero()[:, 0]
    return (found if kept is None else kept[found]).numpy()


def _on_tokens(hidden: Tensor, mask: np.ndarray) -> Tensor:
    """Flatten [sequences, width, d] to [tokens, d], without padding and BOS."""
    if mask.all():
        return hidden.reshape(-1, hidden.shape[-1])
    return hidden[torch.from_numpy(mask).to(hidden.device)]
