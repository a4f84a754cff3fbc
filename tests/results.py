"""Results as the pipeline makes them, without running it."""

from __future__ import annotations

from typing import Any

from labeler.records import (
    Context,
    FeatureStatistics,
    Label,
    LabeledFeature,
    Score,
    Simulation,
    Source,
    Split,
    State,
    TokenTable,
    Usage,
)
from labeler.schema import PARTS, columns_of

N_FEATURES = 50
# The columns of an export of results such as `labeled` makes.
EXPORTED = columns_of({"simulation": PARTS, "simulation_weighted": ("value", "n")})


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "format": "labeler-evidence",
        "version": 1,
        "hash": "e" * 16,
        "created_at": "2026-01-02T03:04:05+00:00",
        "subject": {"id": "tiny", "revision": "sha256:1", "dtype": "float32", "hidden_size": 8, "n_parameters": 1000},
        "hookpoint": "layers.1",
        "reads": "output",
        "sae": {
            "path": "sae",
            "format": "saelens",
            "architecture": "topk",
            "sha256": "a" * 64,
            "n_features": N_FEATURES,
            "d_in": 8,
            "prepend_bos": False,
        },
        "corpus": {
            "spec": "texts",
            "fingerprint": "f" * 16,
            "n_documents": 10,
            "n_tokens": 1000,
            "n_sequences": 20,
            "n_windows": 40,
        },
        "splits": {
            "explain": {"n_documents": 6, "n_tokens": 600, "n_windows": 24},
            "held_out": {"n_documents": 4, "n_tokens": 400, "n_windows": 16},
        },
        "config": {"seed": 0, "window_tokens": 32, "hash": "c" * 16},
        "quality": {"l0": 4.0, "explained_variance": 0.8, "fvu": 0.2, "dead_share": 0.1, "rare_share": 0.05},
        "seconds": 1.0,
        "versions": {"labeler": "0.1.0", "python": "3.11", "torch": "2.13", "transformers": "5.23"},
    } | changes


def statistics(n_firings: int = 100) -> FeatureStatistics:
    by_split = {Split.EXPLAIN: 12, Split.HELD_OUT: 11}
    return FeatureStatistics(
        1000,
        n_firings,
        40,
        23,
        by_split,
        {Split.EXPLAIN: 24, Split.HELD_OUT: 16},
        1.5,
        3.0,
        (0,) * 20 + (n_firings,) + (0,) * 21,
    )


def context(start: int = 64, activations: tuple[float, ...] = (0.0, 2.5, 0.0)) -> Context:
    ids = tuple(range(len(activations)))
    return Context(start, 3, Split.HELD_OUT, Source.TOP, ids, tuple(f"t{i}" for i in ids), activations, 2.0, 1)


def labeled(
    feature_index: int, score: float | None = 0.5, text: str = "the token `x`", **changes: Any
) -> LabeledFeature:
    main = Score(
        "simulation",
        score,
        None if score is not None else "the simulation is constant",
        low=None if score is None else score - 0.1,
        high=None if score is None else score + 0.1,
        n=20,
        null_z=3.0,
        null_p=0.01,
        null_n=100,
        baseline_token_lookup=0.4,
    )
    values: dict[str, Any] = {
        "label": Label(text, "openai:m", TokenTable({5: 1.5}, {(4, 5): 2.5})),
        "scores": (main, Score("simulation_weighted", 0.25, n=20)),
        "simulations": (Simulation(context(), (0.0, 7.5, 1.0)), Simulation(context(96), None, "malformed: no JSON")),
        "usage": Usage(2, 3_000_000_000, 500, 0.25),
    }
    return LabeledFeature(feature_index, State.LABELED, statistics(), **(values | changes))


def silent(feature_index: int) -> LabeledFeature:
    return LabeledFeature(feature_index, State.SILENT, statistics(0), "never fired on 1,000 tokens")


def failed(feature_index: int, reason: str = "refused: no") -> LabeledFeature:
    return LabeledFeature(feature_index, State.FAILED, statistics(), reason, usage=Usage(1, 100, 10, None))
