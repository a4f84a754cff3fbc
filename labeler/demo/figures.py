"""Measure an SAE on text that it was not trained on: its explained variance, and the subject's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from labeler.errors import InputError
from labeler.evidence.patching import PatchedLosses, patched_losses
from labeler.evidence.target import choose_target
from labeler.sae import load_sae
from labeler.subject.model import Subject
from labeler.subject.reading import TokenBatch, hidden_batches


@dataclass(frozen=True)
class Figures:
    """The figures of an SAE on held-out tokens."""

    n_tokens: int
    l0: float
    explained_variance: float
    dead_share: float  # of the features, silent on all these tokens
    losses: PatchedLosses

    def to_dict(self) -> dict[str, float | None]:
        values = asdict(self)
        losses = {name: x for name, x in values.pop("losses").items() if name != "n_tokens"}
        return {**values, **losses, "cross_entropy_recovered": self.losses.recovered}


def measure(subject: Subject, sae_path: Path, batches: Sequence[TokenBatch]) -> Figures:
    """Figures of a saved SAE on the tokens of these batches. Raises InputError without tokens."""
    if not batches:
        raise InputError("no held-out tokens to measure on: give more with --documents or --held-out-share")
    sae = load_sae(str(sae_path))
    target = choose_target(subject, sae, None)
    losses = patched_losses(subject, target, batches)
    if losses is None:
        raise InputError(f"SAE {sae_path}: gives vectors of another width than {target.aim} of the subject")
    hidden = torch.cat(list(hidden_batches(subject, target.hookpoint, batches)))
    activations = sae.encode(hidden)
    error = (hidden - sae.decode(activations)).square().sum().item()
    return Figures(
        len(hidden),
        l0=(activations > 0).sum().item() / len(hidden),
        explained_variance=1 - error / (hidden - hidden.mean(dim=0)).square().sum().item(),
        dead_share=1 - (activations > 0).any(dim=0).float().mean().item(),
        losses=losses,
    )
