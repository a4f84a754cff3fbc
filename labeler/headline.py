"""Choose the quality figures to show first: over ordinary tokens, which a few massive ones cannot flatter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Headline:
    """A figure of the manifest's `quality`, and the same over all tokens where massive ones make the difference."""

    value: float | None
    over_all: float | None


def headline(quality: Mapping[str, Any], name: str) -> Headline:
    """Return the figure of this name, such as "l0"; evidence of earlier versions has it over all tokens only."""
    ordinary = quality.get(f"{name}_ordinary")
    if ordinary is None:
        return Headline(quality.get(name), None)
    return Headline(ordinary, quality.get(name) if quality.get("massive_share") else None)
