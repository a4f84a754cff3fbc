"""Conversion of a result into a row, and back, without loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from labeler.records import FeatureStatistics, LabeledFeature, Score, Simulation, TokenTable
from labeler.store.tables import now


def row_of(label_set_id: int, feature: LabeledFeature) -> dict[str, Any]:
    score, weighted = feature.score("simulation"), feature.score("simulation_weighted")
    detection, fuzzing = feature.score("detection"), feature.score("fuzzing")
    return {
        "label_set_id": label_set_id,
        "feature_index": feature.feature_index,
        "state": str(feature.state),
        "reason": feature.reason,
        "label": feature.label.text if feature.label else None,
        "explainer": feature.label.explainer if feature.label else None,
        "score": score.value if score else None,
        "score_reason": score.reason if score else None,
        "score_low": score.low if score else None,
        "score_high": score.high if score else None,
        "score_n": score.n if score else None,
        "score_null_z": score.null_z if score else None,
        "score_null_p": score.null_p if score else None,
        "baseline_token_lookup": score.baseline_token_lookup if score else None,
        "score_weighted": weighted.value if weighted else None,
        "score_weighted_low": weighted.low if weighted else None,
        "score_weighted_high": weighted.high if weighted else None,
        "detection": detection.value if detection else None,
        "fuzzing": fuzzing.value if fuzzing else None,
        "density": feature.statistics.density,
        "max_activation": feature.statistics.max,
        "n_firings": feature.statistics.n_firings,
        "requests": feature.usage.requests,
        "tokens_in": feature.usage.tokens_in,
        "tokens_out": feature.usage.tokens_out,
        "cost_usd": feature.usage.cost_usd,
        "scores": [_fields(s) for s in feature.scores],
        "simulations": [_simulation(s) for s in feature.simulations],
        "label_table": _table(feature.label.table) if feature.label and feature.label.table else None,
        "origin": asdict(feature.origin) if feature.origin else None,
        "statistics": _fields(feature.statistics),
        "created_at": now(),
    }


def _fields(record: Score | FeatureStatistics) -> dict[str, Any]:
    """Return the record's fields as a dict.

    `asdict` would copy each value too and take six times as long; a feature has ten scores and more.
    """
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


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
