"""Tell massive tokens from ordinary ones by the norm of their hidden states.

Language models give a few tokens, mostly the first of a sequence, hidden states of enormous norm (Sun et al. 2024). They
hold nearly all of the variance, so that an SAE which explains them alone seems to explain everything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labeler.records import MASSIVE_MULTIPLE


def massive_norm(hidden: Tensor) -> float | None:
    """Return the norm above which a token is massive, learned from hidden states [tokens, d]; None if all are zeros.

    Rounded, so that another machine's last bit is not another limit.
    """
    if len(hidden) == 0:
        return None
    limit = MASSIVE_MULTIPLE * float(hidden.float().norm(dim=-1).median())
    return float(f"{limit:.3g}") if 0 < limit < float("inf") else None


def is_massive(hidden: Tensor, limit: float | None) -> Tensor:
    """Return flags [tokens] of the tokens whose norm is above the limit."""
    if limit is None:
        return torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
    norm: Tensor = hidden.float().norm(dim=-1)
    return norm > limit
