"""Reconstruct what an SAE should give: by its own features, or with those of the other layers that write there.

The layers of a cross-layer transcoder add up: what layer 2 gives is made by features of layers 0, 1 and 2. So each
layer is encoded once in a batch, and its activations serve all layers after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from labeler.evidence.target import Target
from labeler.sae.sae import Part, SparseActivations
from labeler.subject.hookpoints import Hookpoint


class JointReconstruction:
    """The SAEs that read one batch, and the activations that more than one of them needs."""

    def __init__(self, targets: Sequence[Target], on_tokens: Mapping[Hookpoint, Tensor]) -> None:
        self._parts = {_key(target): target for target in targets if target.sae.part is not None}
        self._on_tokens = on_tokens
        self._fired: dict[tuple[Path, int] | None, SparseActivations] = {}

    def encode(self, target: Target, hidden: Tensor) -> SparseActivations:
        """Return the features that fire; those of a layer that others need are kept."""
        return self._fired_of(target) if _key(target) in self._parts else target.sae.encode_sparse(hidden)

    def reconstruct(self, target: Target, sparse: SparseActivations, hidden: Tensor) -> Tensor | None:
        """Return what `target.aim` should hold, [tokens, d]; None where layers that write there are not in the pass."""
        part = target.sae.part
        if part is None:
            return target.sae.reconstruct(hidden, sparse)
        sources = [self._parts[key] for layer in part.written_by if (key := (part.whole, layer)) in self._parts]
        if len(sources) < len(part.written_by):
            return None
        total = target.sae.own_offset(hidden)
        for source in sources:
            place = _part(source).writes_to.index(part.layer)
            total = total + source.sae.written(self._fired_of(source), len(hidden), place)
        return total

    def _fired_of(self, target: Target) -> SparseActivations:
        key = _key(target)
        if key not in self._fired:
            self._fired[key] = target.sae.encode_sparse(self._on_tokens[target.hookpoint])
        return self._fired[key]


def sources_of(targets: Sequence[Target], among: Sequence[Target]) -> list[Target]:
    """Return those of `among` that reconstruct one of `targets` and are not in `targets` themselves."""
    parts = [t.sae.part for t in targets if t.sae.part is not None]
    wanted = {(part.whole, layer) for part in parts for layer in part.written_by} - {_key(t) for t in targets}
    return [t for t in among if _key(t) in wanted]


def _key(target: Target) -> tuple[Path, int] | None:
    part = target.sae.part
    return None if part is None else (part.whole, part.layer)


def _part(target: Target) -> Part:
    assert target.sae.part is not None
    return target.sae.part
