"""Describe the SAE itself by numbers of the pass, for the manifest, the card and the terminal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from labeler.evidence.state import Quality, Statistics
from labeler.records import MASSIVE_MULTIPLE

# Edges of the density histogram: thirds of a decade from 1e-8, below which no pass can see, to 1.
DENSITY_LOG10_EDGES = tuple(round(-8 + i / 3, 4) for i in range(25))
_RARE_WINDOWS = 20  # not the state `rare`, which is the recipe's rule (ContextsConfig.min_firing_windows)


def describe_quality(statistics: Statistics, quality: Quality) -> dict[str, Any]:
    """Return L0, explained variance, FVU, dead and rare features, and how many features there are of each density.

    The first three also over ordinary tokens, which is the fairer figure: a few massive tokens hold most of the variance.
    """
    fvu, fvu_ordinary = quality.fraction_unexplained(), quality.fraction_unexplained(ordinary=True)
    n_ordinary = quality.n_tokens - quality.n_massive
    firings_ordinary = quality.n_firings - int(statistics.n_firings_massive.sum())
    windows = statistics.n_firing_windows.sum(0)
    return {
        "l0_ordinary": firings_ordinary / n_ordinary if n_ordinary else None,
        "explained_variance_ordinary": None if fvu_ordinary is None else 1 - fvu_ordinary,
        "fvu_ordinary": fvu_ordinary,
        "massive_share": quality.massive_share(),
        "massive_multiple": MASSIVE_MULTIPLE,
        "l0": quality.n_firings / quality.n_tokens if quality.n_tokens else None,
        "explained_variance": None if fvu is None else 1 - fvu,
        "fvu": fvu,
        "n_tokens_reconstructed": quality.n_sampled,
        "dead_share": float((statistics.n_firings == 0).mean()),
        "rare_share": float(((windows > 0) & (windows < _RARE_WINDOWS)).mean()),
        "density_log10_edges": list(DENSITY_LOG10_EDGES),
        "density_features": density_histogram(statistics.n_firings, quality.n_tokens),
    }


def density_histogram(n_firings: np.ndarray, n_tokens: int) -> list[int]:
    """Count features that fired at all, by the log10 of their share of tokens; [len(edges) - 1]."""
    n_bins = len(DENSITY_LOG10_EDGES) - 1
    place = np.log10(n_firings[n_firings > 0]) - math.log10(n_tokens)
    # A share of exactly 10 ** edge is in the bin above, whatever the last bit of its logarithm.
    bins = np.floor((place - DENSITY_LOG10_EDGES[0]) * 3 + 1e-9).astype(np.int64)
    counts: list[int] = np.bincount(np.clip(bins, 0, n_bins - 1), minlength=n_bins).tolist()
    return counts
