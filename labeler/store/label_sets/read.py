"""Conversion of rows back into records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labeler.records import (
    Candidate,
    Context,
    FeatureStatistics,
    Label,
    LabeledFeature,
    Origin,
    Score,
    Simulation,
    Split,
    State,
    TokenTable,
    Usage,
)
from labeler.store.base.rows import dense

ContextOf = Callable[[dict[str, Any]], Context]


def result_from_row(row: dict[str, Any], context_of: ContextOf) -> LabeledFeature:
    """Rebuild the record that was saved.

    `context_of` makes the context of a stored simulation, because the tokens are in the evidence.
    """
    return LabeledFeature(
        feature_index=row["feature_index"],
        state=State(row["state"]),
        statistics=_statistics(row["statistics"]),
        reason=row["reason"],
        label=Label(row["label"], row["explainer"], _table(row["label_table"])) if row["label"] is not None else None,
        scores=tuple(Score(**score) for score in row["scores"]),
        simulations=tuple(_simulation(s, context_of) for s in row["simulations"]),
        usage=Usage(row["requests"], row["tokens_in"], row["tokens_out"], row["cost_usd"]),
        origin=_origin(row["origin"]),
    )


def _statistics(values: dict[str, Any]) -> FeatureStatistics:
    by_split = {
        name: {Split(k): v for k, v in values[name].items()}
        for name in ("n_firing_windows_by_split", "n_windows_by_split")
    }
    return FeatureStatistics(**{**values, **by_split, "histogram": tuple(values["histogram"])})


def _origin(stored: dict[str, Any] | None) -> Origin | None:
    if stored is None:
        return None
    return Origin(**{**stored, "candidates": tuple(Candidate(**c) for c in stored["candidates"])})


def _simulation(stored: dict[str, Any], context_of: ContextOf) -> Simulation:
    predicted = None if stored["predicted"] is None else dense(stored["predicted"], stored["n_tokens"])
    return Simulation(context_of(stored), predicted, stored["reason"], stored.get("n_flagged", 0))


def _table(stored: dict[str, Any] | None) -> TokenTable | None:
    if stored is None:
        return None
    return TokenTable(
        {int(t): v for t, v in stored["by_token"]}, {(int(b), int(t)): v for b, t, v in stored["by_pair"]}
    )
