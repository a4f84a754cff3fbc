"""Keep the result of the check that a pass begins with (evidence/check_vector.py), in a file of the evidence folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labeler.files import read_json

SELF_CHECK = "self_check.json"


@dataclass(frozen=True)
class SelfCheck:
    """The result of the check, which the manifest and the card repeat."""

    n_tokens: int
    explained_variance: float | None  # over ordinary tokens; None where the SAE's file does not say what it aims at
    least: float | None  # None where nothing was compared
    forced: bool  # the SAE explains too little, and the pass was asked for all the same
    massive_multiple: float
    massive_norm: float | None  # of what is read
    massive_norm_aim: float | None  # of what is reconstructed

    @property
    def passed(self) -> bool:
        return self.explained_variance is None or self.least is None or self.explained_variance >= self.least


def read_self_check(out: Path) -> SelfCheck | None:
    """Return the check that a pass began with; None where an earlier version began it."""
    path = out / SELF_CHECK
    return SelfCheck(**read_json(path)) if path.exists() else None


def describe(check: SelfCheck) -> dict[str, Any]:
    return asdict(check)
