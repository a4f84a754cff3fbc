"""How good an SAE is on text it was not trained on: what it explains, and what the subject loses by reading it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labeler.errors import InputError
from labeler.sae import SAE, load_sae
from labeler.subject.model import Subject


@dataclass(frozen=True)
class Figures:
    """On held-out tokens. Cross-entropies are in nats a token, as the subject predicts the next one."""

    n_tokens: int
    l0: float
    explained_variance: float
    dead_share: float  # of the features, silent on all these tokens
    cross_entropy: float
    cross_entropy_sae: float  # with the reconstruction in the place of the hidden states
    cross_entropy_mean: float  # with their mean in that place

    @property
    def cross_entropy_recovered(self) -> float:
        """1 where the reconstruction costs nothing, 0 where it is as bad as the mean."""
        return (self.cross_entropy_mean - self.cross_entropy_sae) / (self.cross_entropy_mean - self.cross_entropy)

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "cross_entropy_recovered": self.cross_entropy_recovered}


def measure(subject: Subject, sae_path: Path, batches: Iterable[tuple[Tensor, Tensor]]) -> Figures:
    """Figures of a saved SAE on (token ids, mask), [sequences, tokens] each. Raises InputError without tokens."""
    sae = load_sae(str(sae_path))
    read = _read(subject, sae, batches)
    if not read:
        raise InputError("no held-out tokens to measure on: give more with --documents or --held-out-share")
    hidden = torch.cat([h[mask] for _ids, mask, h in read])
    mean = hidden.mean(dim=0)
    activations = sae.encode(hidden)
    error = (hidden - sae.decode(activations)).square().sum().item()
    losses = {
        name: _cross_entropy(subject, sae, read, replace)
        for name, replace in {
            "cross_entropy": lambda h: h,
            "cross_entropy_sae": lambda h: sae.decode(sae.encode(h.flatten(0, 1))).view_as(h),
            "cross_entropy_mean": lambda h: mean.expand_as(h),
        }.items()
    }
    return Figures(
        len(hidden),
        l0=(activations > 0).sum().item() / len(hidden),
        explained_variance=1 - error / (hidden - mean).square().sum().item(),
        dead_share=1 - (activations > 0).any(dim=0).float().mean().item(),
        **losses,
    )


_Read = list[tuple[Tensor, Tensor, Tensor]]  # token ids, mask, hidden states


def _read(subject: Subject, sae: SAE, batches: Iterable[tuple[Tensor, Tensor]]) -> _Read:
    hookpoint = subject.hookpoint(sae.hookpoint or "")
    return [(ids, mask, subject.hidden(ids, [hookpoint])[hookpoint]) for ids, mask in batches]


@torch.no_grad()
def _cross_entropy(subject: Subject, sae: SAE, read: _Read, replace: Callable[[Tensor], Tensor]) -> float:
    """Mean over the tokens that follow another, with the hidden states replaced on the way."""
    total, n = 0.0, 0
    for ids, mask, hidden in read:
        with _output_replaced(subject.model.get_submodule(sae.hookpoint), replace(hidden)):
            logits = subject.model(input_ids=ids, use_cache=False).logits
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        total += losses[mask[:, 1:]].sum().item()
        n += int(mask[:, 1:].sum())
    return total / n


@contextmanager
def _output_replaced(module: Any, value: Tensor) -> Iterator[None]:
    def give(_module: Any, _args: Any, output: Any) -> Any:
        return (value, *output[1:]) if isinstance(output, tuple) else value

    handle = module.register_forward_hook(give)
    try:
        yield
    finally:
        handle.remove()
