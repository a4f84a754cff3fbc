"""Conversion of a result into a row, and back, without loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from labeler.records import LabeledFeature, Score, Simulation, TokenTable
from labeler.schema import DECLARED, Use
from labeler.store.tables.label_sets import now

_ON_THE_ROW = tuple(column for column in DECLARED.values() if column.score and Use.LISTED in column.use)


def row_of(label_set_id: int, feature: LabeledFeature) -> dict[str, Any]:
    return {
        "label_set_id": label_set_id,
        "feature_index": feature.feature_index,
        "state": str(feature.state),
        "reason": feature.reason,
        "label": feature.label.text if feature.label else None,
        "explainer": feature.label.explainer if feature.label else None,
        **on_the_row({score.name: vars(score) for score in feature.scores}),
        "density": feature.statistics.density,
        "max_activation": feature.statistics.max,
        "n_firings": feature.statistics.n_firings,
        "requests": feature.usage.requests,
        "tokens_in": feature.usage.tokens_in,
        "tokens_out": feature.usage.tokens_out,
        "cost_usd": feature.usage.cost_usd,
        "scores": [stored_score(s) for s in feature.scores],
        "simulations": [_simulation(s) for s in feature.simulations],
        "label_table": _table(feature.label.table) if feature.label and feature.label.table else None,
        "origin": asdict(feature.origin) if feature.origin else None,
        "statistics": dict(vars(feature.statistics)),
        "created_at": now(),
    }


def on_the_row(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of the columns that stand on a row, from its scores by name."""
    return {c.name: scores[name].get(c.part) if (name := str(c.score)) in scores else None for c in _ON_THE_ROW}


def stored_score(score: Score) -> dict[str, Any]:
    """Return the fields of a score that are not empty: a feature has ten scores and more."""
    kept = {name: value for name, value in vars(score).items() if value is not None or name == "value"}
    if score.reason is not None:  # it may quote a reply with half of a surrogate pair, which no reader of JSON takes
        kept["reason"] = score.reason.encode("utf-8", "replace").decode()
    return kept


def _simulation(simulation: Simulation) -> dict[str, Any]:
    context = simulation.context
    return {
        "token_start": context.token_start,
        "document": context.document,
        "split": str(context.split),
        "source": str(context.source),
        "weight": context.weight,
        "stratum": context.stratum,
        "n_tokens": len(context.tokens),
        "truth": _sparse(context.activations),
        "predicted": None if simulation.predicted is None else _sparse(simulation.predicted),
        "reason": simulation.reason,
        "n_flagged": simulation.n_flagged,
    }


def _sparse(values: Sequence[float]) -> list[list[float]]:
    return [[i, v] for i, v in enumerate(values) if v != 0.0]


def dense(entries: Sequence[Sequence[float]], n: int) -> tuple[float, ...]:
    values = [0.0] * n
    for index, value in entries:
        values[int(index)] = value
    return tuple(values)


def _table(table: TokenTable) -> dict[str, Any]:
    return {
        "by_token": [[t, v] for t, v in sorted(table.by_token.items())],
        "by_pair": [[b, t, v] for (b, t), v in sorted(table.by_pair.items())],
    }
