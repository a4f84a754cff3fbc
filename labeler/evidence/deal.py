"""Deal examples to four splits as Bills et al. 2023 did, for comparability with scores made that way.

Our own split is by document. Here neighboring examples go to different splits, even if they are from one document.
Use it to repeat published numbers, not to make new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from labeler.errors import InputError

Example = TypeVar("Example")


@dataclass(frozen=True)
class Deal(Generic[Example]):
    train: tuple[Example, ...]  # top only: what an explainer sees
    calibration: tuple[Example, ...]  # top, then random
    valid: tuple[Example, ...]
    test: tuple[Example, ...]


def deal(top: Sequence[Example], random: Sequence[Example], n_per_split: int | None = None) -> Deal[Example]:
    """Deal `top` (highest activation first) to four splits in turn, and `random` to all but train.

    Each split gets `n_per_split` examples of each kind; None deals as many as go round evenly. Raises InputError where
    there are too few.
    """
    train, *rest = _in_turn("top", top, 4, n_per_split)
    of_random = _in_turn("random", random, 3, n_per_split)
    return Deal(train, *(a + b for a, b in zip(rest, of_random, strict=True)))


def _in_turn(
    kind: str, examples: Sequence[Example], n_splits: int, n_per_split: int | None
) -> list[tuple[Example, ...]]:
    n = len(examples) // n_splits if n_per_split is None else n_per_split
    if n < 1 or len(examples) < n * n_splits:
        raise InputError(
            f"{len(examples)} {kind} examples for {n_splits} splits of {n_per_split or 'at least 1'}: "
            f"give {n_splits * max(n, 1)} or more, or ask for fewer a split"
        )
    return [tuple(examples[first : n * n_splits : n_splits]) for first in range(n_splits)]
