"""Shuffle hidden states and cut them into batches of one size, with only a buffer of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from labeler.errors import InputError, MismatchError


def shuffled(hidden_batches: Iterable[Tensor], buffer_tokens: int, batch_tokens: int, seed: int) -> Iterator[Tensor]:
    """The same hidden states in random order, [batch_tokens, d_in] at a time; the last batch may be smaller.

    Tokens of a document resemble each other, and a batch of them is a poor sample. A buffer is filled, mixed, half
    emptied and filled again, so a token meets others from `buffer_tokens` around it.
    """
    if buffer_tokens < 2 * batch_tokens:
        raise InputError(f"buffer_tokens is {buffer_tokens}: choose at least two batches of {batch_tokens}")
    generator = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    for hidden in hidden_batches:
        held.append(hidden)
        if sum(map(len, held)) >= buffer_tokens:
            mixed = _mixed(held, generator)
            n_out = len(mixed) // 2 // batch_tokens * batch_tokens
            yield from mixed[:n_out].split(batch_tokens)
            held = [mixed[n_out:].clone()]
    if held:
        yield from _mixed(held, generator).split(batch_tokens)


def _mixed(parts: list[Tensor], generator: torch.Generator) -> Tensor:
    together = torch.cat(parts)
    return together[torch.randperm(len(together), generator=generator).to(together.device)]


def rebatched(hidden_batches: Iterable[Tensor], batch_tokens: int) -> Iterator[Tensor]:
    """Batches of exactly `batch_tokens`, in float32; what is left over at the end is dropped."""
    held: list[Tensor] = []
    d_in = None
    for hidden in hidden_batches:
        d_in = d_in or hidden.shape[-1]
        if hidden.ndim != 2 or hidden.shape[1] != d_in:
            raise MismatchError(f"hidden states of shape {list(hidden.shape)}; expected [tokens, {d_in}]")
        held.append(hidden)
        if sum(map(len, held)) >= batch_tokens:
            *whole, rest = _cut(torch.cat(held), batch_tokens)
            yield from (batch.float() for batch in whole)
            held = [rest]


def _cut(hidden: Tensor, batch_tokens: int) -> list[Tensor]:
    """Whole batches, then the rest, which may be empty."""
    n_whole = len(hidden) // batch_tokens * batch_tokens
    return [*hidden[:n_whole].split(batch_tokens), hidden[n_whole:]]
