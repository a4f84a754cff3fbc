"""Rows of Neuronpedia's tables, from evidence and results. Only known values are written.

The TOP group holds windows of EXPLAIN documents. The other groups hold windows of HELD_OUT documents, so labels written from
TOP can be scored on the others. Each of these groups is an octave of the peak activation, with the share of all tokens
that lies in it, counted; the last group has windows in which the feature is silent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from labeler.evidence.directions import Output, read_output
from labeler.evidence.state import histogram_bin
from labeler.evidence.store import BY_OTHERS, EvidenceFolder, Windows
from labeler.neuronpedia.layout import BOT, TOP, Place, row_id, time_text
from labeler.recipe import EXPLAINERS
from labeler.records import HISTOGRAM_EDGES, FeatureStatistics, Source, Split

LOOKUP_MODEL = "labeler-token-lookup"  # the model's name if no language model was asked
OURS = "labeler_"  # prefix of the names of labeler's explanation and score types
N_HELD_OUT = 30  # windows drawn from all those in which the feature fires
N_SILENT = 10

Row = dict[str, Any]
Bin = tuple[float | None, float | None, float | None]  # lowest, highest, share of all tokens
_UNKNOWN: Bin = (None, None, None)


@dataclass(frozen=True)
class Names:
    """The names of the makers in the rows of one label set. Imported labels keep their makers' names."""

    explanation_type: str
    explanation_model: str
    simulator: str
    scorers: Mapping[str, str]  # model by kind
    renamed: bool = True  # whether scores carry labeler's own names
    recipe: str = ""  # the recipe's hash

    @classmethod
    def of(cls, recipe: dict[str, Any]) -> Names:
        explainer, simulator = recipe["explainer"], recipe["simulator"]
        kept = recipe.get(BY_OTHERS) or {}
        return cls(
            kept.get("typeName") or OURS + explainer["prompt_version"],
            kept.get("explanationModelName") or explainer.get("model") or LOOKUP_MODEL,
            simulator.get("model") or LOOKUP_MODEL,
            {s["kind"]: s["model"] for s in recipe.get("scorers", ())},
            renamed="typeName" not in kept or str(kept["typeName"]).startswith(OURS),
            recipe=recipe["hash"],
        )

    def type_of(self, explainer: str | None) -> str:
        return OURS + EXPLAINERS["lookup"] if explainer == "lookup" else self.explanation_type

    def model_of(self, explainer: str | None) -> str:
        return LOOKUP_MODEL if explainer == "lookup" else self.explanation_model

    def score_type(self, name: str) -> str:
        return OURS + name if self.renamed else name

    def score_model(self, name: str, explainer: str | None) -> str:
        kind = next((k for k in self.scorers if name == k or name.startswith(k + "_")), None)
        return self.simulator if kind is None else self.scorers[kind]


class FeatureRows:
    """Rows of features and their activations, from one evidence folder."""

    def __init__(self, folder: EvidenceFolder, place: Place, created: datetime, n_top: int = 20) -> None:
        self._folder, self._place, self._n_top = folder, place, n_top
        self._created = time_text(created)
        self._corpus = str(folder.manifest["corpus"]["spec"])

    def feature(self, index: int) -> Row:
        statistics = self._folder.statistics(index)
        output = read_output(self._folder, index)
        return {
            "modelId": self._place.model,
            "layer": self._place.source,
            "index": str(index),
            "creatorId": BOT,
            "createdAt": self._created,
            "sourceSetName": self._place.set,
            "maxActApprox": statistics.max,
            "frac_nonzero": statistics.density,
            **_activation_histogram(statistics),
            **_logit_histogram(output),
            **self._tokens(output),
        }

    def _tokens(self, output: Output | None) -> Row:
        sides = {"pos": output.promoted, "neg": output.suppressed} if output else {"pos": (), "neg": ()}
        row: Row = {}
        for name, pairs in sides.items():
            row[f"{name}_str"] = [self._folder.vocabulary.text(token) for token, _ in pairs]
            row[f"{name}_values"] = [logit for _, logit in pairs]
        return row

    def activations(self, index: int) -> Iterator[Row]:
        """Yield the rows of the TOP group, then those of the others from high to low."""
        statistics = self._folder.statistics(index)
        top = self._folder.windows(index, Source.TOP, Split.EXPLAIN)
        top = top.take(range(min(self._n_top, len(top))))
        for row in range(len(top)):
            yield self._activation(index, top, row, (TOP, statistics.max, TOP))
        drawn = self._folder.windows(index, Source.SAMPLED, Split.HELD_OUT)
        drawn = drawn.take(range(min(N_HELD_OUT, len(drawn))))
        for row in np.argsort(-drawn.peak, kind="stable").tolist():
            bin = _UNKNOWN if self._folder.by_others else octave_of(float(drawn.peak[row]), statistics)
            yield self._activation(index, drawn, row, bin)
        yield from self._silent(index, statistics)

    def _silent(self, index: int, statistics: FeatureStatistics) -> Iterator[Row]:
        if not statistics.n_firings:
            return
        windows = self._folder.windows(index, Source.RANDOM, Split.HELD_OUT)
        silent = np.flatnonzero(windows.peak == 0)
        seed = int(self._folder.manifest["config"]["seed"])
        chosen = np.sort(np.random.default_rng([seed, index]).permutation(silent)[:N_SILENT])
        for row in chosen.tolist():
            yield self._activation(index, windows, row, (0.0, 0.0, 1.0 - (statistics.density or 0.0)))

    def _activation(self, index: int, windows: Windows, row: int, bin: Bin) -> Row:
        n, start = int(windows.length[row]), int(windows.position[row])
        values, group = windows.activations[row, :n], "top" if bin[2] == TOP else "held_out"
        return {
            "id": row_id("activation", self._place.model, self._place.source, index, self._folder.hash, group, start),
            "modelId": self._place.model,
            "layer": self._place.source,
            "index": str(index),
            "tokens": [self._folder.vocabulary.text(t) for t in windows.token_ids[row, :n].tolist()],
            "values": values,
            "maxValue": values.max(),
            "maxValueTokenIndex": int(values.argmax()),
            "minValue": values.min(),
            "creatorId": BOT,
            "createdAt": self._created,
            "dataSource": self._corpus,
            "dataIndex": str(start),
            "binMin": bin[0],
            "binMax": bin[1],
            "binContains": bin[2],
        }


def octave_of(peak: float, statistics: FeatureStatistics) -> tuple[float, float, float]:
    """Return (lowest, highest, share of all tokens) of an activation's octave. The outermost octaves are open."""
    first = int(histogram_bin(np.array([peak], dtype=np.float32))[0])
    first -= (first + 1) % 2 if 0 < first < len(HISTOGRAM_EDGES) else 0  # octaves begin at odd bins
    last = min(first + 1, len(HISTOGRAM_EDGES) - 1) if 0 < first < len(HISTOGRAM_EDGES) else first
    n = sum(statistics.histogram[first : last + 1])
    low = HISTOGRAM_EDGES[first - 1] if first else 0.0
    high = HISTOGRAM_EDGES[last] if last < len(HISTOGRAM_EDGES) else statistics.max or 0.0
    return low, high, n / (statistics.n_tokens or 1)


def _activation_histogram(statistics: FeatureStatistics) -> Row:
    """Count firing tokens per half-octave of activation, from low to high, each at the middle of its bin."""
    filled = [i for i, n in enumerate(statistics.histogram) if n]
    bins = range(filled[0], filled[-1] + 1) if filled else range(0)
    edges = (0.0, *HISTOGRAM_EDGES, statistics.max or 0.0)
    return {
        "freq_hist_data_bar_heights": [statistics.histogram[i] for i in bins],
        "freq_hist_data_bar_values": [(edges[i] + edges[i + 1]) / 2 for i in bins],
    }


def _logit_histogram(output: Output | None) -> Row:
    heights = list(output.histogram) if output else []
    width = (output.high - output.low) / len(heights) if output and heights else 0.0
    values = [output.low + (i + 0.5) * width for i in range(len(heights))] if output else []
    return {"logits_hist_data_bar_heights": heights, "logits_hist_data_bar_values": values}


@dataclass(frozen=True)
class Result:
    """The values of one labeled result that the rows need."""

    feature_index: int
    label: str
    explainer: str | None
    scores: tuple[dict[str, Any], ...]
    created_at: datetime


def explanation_row(place: Place, names: Names, result: Result) -> Row:
    kind, model = names.type_of(result.explainer), names.model_of(result.explainer)
    return {
        "id": row_id(
            "explanation", place.model, place.source, result.feature_index, names.recipe, kind, model, result.label
        ),
        "modelId": place.model,
        "layer": place.source,
        "index": str(result.feature_index),
        "description": result.label,
        "authorId": BOT,
        "typeName": kind,
        "explanationModelName": model,
        "embedding": None,
        "notes": f"labeler recipe {names.recipe}",
        "createdAt": time_text(result.created_at),
    }


def score_rows(names: Names, explanation: str, result: Result) -> Iterator[Row]:
    """Yield the scores that have a value. `jsonDetails` holds interval, null and baseline, which have no column.

    Values in the table are within 0..1. For a negative correlation the value is 0, and `jsonDetails` has the correlation.
    """
    for score in result.scores:
        if score["value"] is None:
            continue
        kind = names.score_type(score["name"])
        yield {
            "id": row_id("score", explanation, kind),
            "value": min(1.0, max(0.0, score["value"])),
            "explanationId": explanation,
            "explanationScoreTypeName": kind,
            "explanationScoreModelName": names.score_model(score["name"], result.explainer),
            "initiatedByUserId": BOT,
            "jsonDetails": json.dumps({k: v for k, v in score.items() if v is not None}, ensure_ascii=False),
            "createdAt": time_text(result.created_at),
        }
