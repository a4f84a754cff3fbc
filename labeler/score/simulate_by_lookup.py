"""Predict activations with a label's token table: no LLM, and the same numbers at any time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeler.evidence.ragged import ranges
from labeler.records import PAIR_BASE, Context, Label, Simulation, TokenTable


def simulate_by_lookup(label: Label, contexts: Sequence[Context]) -> tuple[Simulation, ...]:
    """Predict activations by the label's table, which sees only the token ids of the contexts."""
    if label.table is None:
        raise ValueError("a label in words has no table to look tokens up in")
    return tuple(Simulation(c, label.table.predict(c.token_ids)) for c in contexts)


def predict_all(tables: Sequence[TokenTable], contexts: Sequence[Context]) -> np.ndarray:
    """Return each table's predictions for every token of the contexts, one after another: [n_tables, n_tokens].

    The same numbers as `TokenTable.predict`.
    """
    token = np.array([t for c in contexts for t in c.token_ids], dtype=np.int64)
    before = np.array([b for c in contexts for b in (-1, *c.token_ids[:-1])], dtype=np.int64)
    out = np.zeros((len(tables), len(token)))
    _Stacked.of([t.arrays[0] for t in tables]).fill(out, token)
    _Stacked.of([t.arrays[1] for t in tables]).fill(out, _pair_key(before, token))
    return out


@dataclass(frozen=True)
class _Stacked:
    """The entries of all tables, sorted by key."""

    keys: np.ndarray  # [n] int64, rising
    table: np.ndarray  # [n] which table the entry is of
    value: np.ndarray  # [n]

    @classmethod
    def of(cls, tables: Sequence[tuple[np.ndarray, np.ndarray]]) -> _Stacked:
        if not tables:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        keys = np.concatenate([k for k, _ in tables])
        table = np.repeat(np.arange(len(tables)), [len(k) for k, _ in tables])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], table[order], np.concatenate([v for _, v in tables])[order])

    def fill(self, out: np.ndarray, keys: np.ndarray) -> None:
        low = np.searchsorted(self.keys, keys, side="left")
        counts = np.searchsorted(self.keys, keys, side="right") - low
        entries = ranges(low, counts)
        out[self.table[entries], np.repeat(np.arange(len(keys)), counts)] = self.value[entries]


def _pair_key(before: np.ndarray, token: np.ndarray) -> np.ndarray:
    return np.where(before >= 0, before * PAIR_BASE + token, -1)
