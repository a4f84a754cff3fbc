"""Measure the loss of the subject when it reads a reconstruction in place of its own hidden states.

    recovered = (loss ablated - loss with the reconstruction) / (loss ablated - loss)

1 means that the reconstruction costs nothing, 0 that it is no better than the ablation (Bricken et al. 2023). The
ablation sets hidden states to their mean, the stricter comparison, or to 0, the more common one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labeler.errors import InputError
from labeler.evidence.batches import batches_of_chunk, n_chunks
from labeler.evidence.manifest import MANIFEST, read_manifest, rewrite_manifest
from labeler.evidence.target import Target, bos_token, kept_tokens
from labeler.files import read_json, write_json
from labeler.recipe import GatherConfig
from labeler.sae import SAE
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject
from labeler.subject.reading import TokenBatch
from labeler.subject.sequences import TokenizedCorpus

LOSSES = "losses.json"
_PIECE_TOKENS = 4096
_CHUNK_VALUES = 1 << 25  # dense activations at once


@dataclass(frozen=True)
class PatchedLosses:
    """Cross-entropies in nats per token, as the subject predicts each token that follows another."""

    n_tokens: int
    cross_entropy: float
    cross_entropy_sae: float  # with the reconstruction
    cross_entropy_mean: float  # with the mean
    cross_entropy_zero: float  # with zeros

    @property
    def recovered(self) -> float | None:
        """Return the recovered share against the mean; None where the mean costs the subject nothing."""
        return self._recovered(self.cross_entropy_mean)

    @property
    def recovered_zero(self) -> float | None:
        """Return the recovered share against zeros."""
        return self._recovered(self.cross_entropy_zero)

    def _recovered(self, ablated: float) -> float | None:
        cost = ablated - self.cross_entropy
        return (ablated - self.cross_entropy_sae) / cost if cost > 0 else None


def measure_loss(
    subject: Subject, target: Target, corpus: TokenizedCorpus, config: GatherConfig, n_tokens: int
) -> dict[str, Any]:
    """Return the numbers of `quality` in the manifest: the losses on about `n_tokens` tokens, and what the SAE
    recovers.

    The tokens come in pieces spread evenly over all documents. The split of documents does not matter here, since
    nothing is explained or scored. Where the SAE's file does not say what it reconstructs, all is None, with the
    reason.
    """
    if target.aim is None:
        return _unmeasured("the transcoder's file does not say what it reconstructs")
    if target.aim.members:
        return _unmeasured("the SAE reconstructs several places at once, and one is replaced at a time")
    if target.sae.part is not None:
        return _unmeasured("other layers' features write to the same place: no layer has a reconstruction of its own")
    bos = bos_token(subject, target.sae, config)
    batches = _spread(corpus, config, n_tokens, bos)
    read = [batch.mask & kept_tokens(subject, target.sae, batch.ids, config.sequence_tokens, bos) for batch in batches]
    losses = patched_losses(subject, target, batches, read)
    if losses is None:
        return _unmeasured(f"the SAE gives vectors of another width than {target.aim}")
    reason = None if losses.recovered is not None else f"the subject loses nothing by the mean of {target.aim}"
    return {
        "n_tokens_cross_entropy": losses.n_tokens,
        "cross_entropy": losses.cross_entropy,
        "cross_entropy_sae": losses.cross_entropy_sae,
        "cross_entropy_mean": losses.cross_entropy_mean,
        "cross_entropy_zero": losses.cross_entropy_zero,
        "cross_entropy_recovered": losses.recovered,
        "cross_entropy_recovered_zero": losses.recovered_zero,
        "cross_entropy_reason": reason,
    }


def write_losses(
    out: Path, subject: Subject, target: Target, corpus: TokenizedCorpus, config: GatherConfig, n_tokens: int
) -> None:
    """Measure the losses once, and keep them for the merge; evidence that is merged already gets them too."""
    if (out / LOSSES).exists():
        losses = read_json(out / LOSSES)
    else:
        losses = measure_loss(subject, target, corpus, config, n_tokens)
        write_json(out / LOSSES, losses)
    if (out / MANIFEST).exists():
        quality = read_manifest(out)["quality"]
        if not losses.items() <= quality.items():  # a run that was killed between the two files leaves the same state
            rewrite_manifest(out, quality=quality | losses)


def _unmeasured(reason: str) -> dict[str, Any]:
    return {"cross_entropy_recovered": None, "cross_entropy_reason": reason}


def _spread(corpus: TokenizedCorpus, config: GatherConfig, n_tokens: int, bos: int | None) -> list[TokenBatch]:
    """Choose at least `n_tokens` tokens, if the corpus has them: whole sequences from evenly spread pieces of the
    corpus.
    """
    # A piece at least as long as a sequence has the beginning of a sequence in it.
    piece = replace(config, chunk_tokens=max(config.sequence_tokens, min(_PIECE_TOKENS, n_tokens)))
    n_pieces = n_chunks(corpus, piece)
    n_wanted = min(n_pieces, -(-n_tokens // piece.chunk_tokens))
    return [
        TokenBatch(*(torch.from_numpy(a) for a in batch.padded_ids(corpus.tokens, bos)))
        for i in range(n_wanted)
        for batch in batches_of_chunk(corpus, i * n_pieces // n_wanted, piece)
    ]


def patched_losses(
    subject: Subject, target: Target, batches: Sequence[TokenBatch], read: Sequence[Tensor] | None = None
) -> PatchedLosses | None:
    """Return the losses on these tokens with `target.aim` as it is, reconstructed, at its mean over them, and at 0.

    None where the SAE gives vectors of another width than its aim. Padding, BOS and tokens outside `read` (masks; default:
    all tokens) keep what the subject gave: no feature was gathered there. Raises InputError where no token follows another.
    """
    sae, hookpoint, aim = target.sae, target.hookpoint, target.aim
    if aim is None:
        raise ValueError("this target has no aim: nothing to put a reconstruction in the place of")
    mean = _mean(subject, aim, batches)
    if len(mean) != sae.decoder_directions().shape[1]:
        return None
    patches: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda hidden: _reconstruction(sae, hidden),
        lambda hidden: mean.expand(len(hidden), -1),
        lambda hidden: torch.zeros_like(mean).expand(len(hidden), -1),
    )
    sums, n_tokens = [0.0] * 4, 0
    for batch, mask in zip(batches, read or [batch.mask for batch in batches], strict=True):
        hidden = subject.hidden(batch.ids, [hookpoint])[hookpoint][mask.to(subject.device)]
        follows = batch.mask[:, 1:]
        sums[0] += _loss_sum(subject, batch.ids, follows)
        for i, patch in enumerate(patches, start=1):
            with _replaced(subject.model, aim, mask, patch(hidden)):
                sums[i] += _loss_sum(subject, batch.ids, follows)
        n_tokens += int(follows.sum())
    if n_tokens == 0:
        raise InputError("no token follows another: give a longer corpus to measure the cross-entropy on")
    return PatchedLosses(n_tokens, *(s / n_tokens for s in sums))


def _reconstruction(sae: SAE, hidden: Tensor) -> Tensor:
    """Map [tokens, d_in] to [tokens, d_out], including the negative activations of some SAEs, which evidence leaves
    out.
    """
    chunk = max(1, _CHUNK_VALUES // sae.n_features)
    return torch.cat([sae.decode(sae.encode(part), part) for part in hidden.split(chunk)])


def _mean(subject: Subject, aim: Hookpoint, batches: Sequence[TokenBatch]) -> Tensor:
    """Return the mean [d] over all tokens, summed in float64."""
    total, n_tokens = torch.zeros(()), 0
    for batch in batches:
        hidden = subject.hidden(batch.ids, [aim])[aim][batch.mask.to(subject.device)]
        total = total.to(hidden.device) + hidden.double().sum(dim=0)
        n_tokens += len(hidden)
    return (total / max(1, n_tokens)).float()


@torch.no_grad()
def _loss_sum(subject: Subject, ids: Tensor, follows: Tensor) -> float:
    """Sum the cross-entropy over the tokens `ids[:, 1:]` where `follows` [sequences, width - 1] is true."""
    ids, follows = ids.to(subject.device), follows.to(subject.device)
    logits = subject.model(input_ids=ids, use_cache=False).logits
    # One sequence at a time: in float32 the logits of a batch over a large vocabulary take gigabytes.
    rows = zip(logits[:, :-1], ids[:, 1:], follows, strict=True)
    losses = [F.cross_entropy(row[here].float(), token[here], reduction="sum") for row, token, here in rows]
    return float(torch.stack(losses).double().sum())


@contextmanager
def _replaced(model: nn.Module, place: Hookpoint, mask: Tensor, values: Tensor) -> Iterator[None]:
    """Let the model read `values` [tokens, d] at `place`, on the tokens of `mask`, within the block only."""

    def put(hidden: Tensor) -> Tensor:
        patched = hidden.clone()
        patched[mask.to(hidden.device)] = values.to(hidden.dtype)
        return patched

    def put_output(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (put(output[0]), *output[1:]) if isinstance(output, tuple) else put(output)

    def put_input(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if args:
            return (put(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": put(kwargs["hidden_states"])}

    module = model.get_submodule(place.path)
    if place.reads == "input":
        handle = module.register_forward_pre_hook(put_input, with_kwargs=True)
    else:
        handle = module.register_forward_hook(put_output)
    try:
        yield
    finally:
        handle.remove()
