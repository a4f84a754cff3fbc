"""Constants that every writer and reader of an evidence folder shares."""

from __future__ import annotations

from typing import Any

import numpy as np

from labeler.records import Split
from labeler.subject.sequences import TokenizedCorpus

HEAD: dict[str, Any] = {"format": "labeler-evidence", "version": 1}  # of each manifest
SPLITS = (Split.EXPLAIN, Split.HELD_OUT)  # in the order of every array by split
FIXED_POINT = 1 << 20  # sums of activations are integers of this fraction


def position_dtype(corpus: TokenizedCorpus) -> np.dtype:
    """Return the type that positions of tokens have on disk."""
    return np.dtype(np.uint32 if corpus.n_tokens < 1 << 32 else np.uint64)
