"""Find features that point the same way: nearest neighbors by decoder direction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from labeler.sae.sae import SAE


def nearest_neighbours(
    sae: SAE, k: int = 10, block: int = 4096, on_features: Callable[[int], None] = lambda n: None
) -> tuple[np.ndarray, np.ndarray]:
    """(features [n_features, k] int32, cosines [n_features, k] float32), nearest first, without the feature itself.

    In blocks of [block, block] cosines: never a matrix of n_features^2 in memory. -1 and 0 beyond n_features - 1.
    """
    directions = torch.nn.functional.normalize(_directions(sae), dim=1)
    n = len(directions)
    found, cosine = np.full((n, k), -1, dtype=np.int32), np.zeros((n, k), dtype=np.float32)
    wanted = min(k, n - 1)
    if wanted <= 0:
        return found, cosine
    for low in range(0, n, block):
        rows = directions[low : low + block]
        values = rows.new_full((len(rows), 0), 0.0)
        indices = torch.zeros((len(rows), 0), dtype=torch.long, device=rows.device)
        for start in range(0, n, block):
            here = rows @ directions[start : start + block].T
            if start == low:
                here.fill_diagonal_(-2.0)  # below any cosine: a feature is not its own neighbour
            best = here.topk(min(wanted, here.shape[1]), dim=1)
            values = torch.cat([values, best.values], dim=1)
            indices = torch.cat([indices, best.indices + start], dim=1)
            keep = values.topk(min(wanted, values.shape[1]), dim=1)
            values, indices = keep.values, indices.gather(1, keep.indices)
        found[low : low + block, :wanted] = indices.cpu().numpy()
        cosine[low : low + block, :wanted] = values.cpu().numpy()
        on_features(min(low + block, n))
    return found, cosine


def _directions(sae: SAE) -> torch.Tensor:
    """Return [n_features, all that a feature writes], in float32; of several places, one beside the other."""
    return sae.w_dec.to(sae.b_dec) if sae.writes else sae.decoder_directions().float()
