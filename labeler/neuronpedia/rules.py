"""Rules for the rows and files of one source; check.py has the table of rules."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from labeler.neuronpedia.layout import (
    ACTIVATIONS,
    AUTHOR,
    BOT,
    EXPLANATIONS,
    FEATURES,
    FEATURES_PER_FILE,
    FILES_PER_FOLDER,
    KEYS,
    METADATA,
    METADATA_KEYS,
    SCORES,
    TOP,
    is_source,
)
from labeler.neuronpedia.lines import Known, Placed, Problem, Report, read_plain, read_table

_PAIRS = (
    ("freq_hist_data_bar_heights", "freq_hist_data_bar_values"),
    ("logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
    ("pos_str", "pos_values"),
    ("neg_str", "neg_values"),
)
_EMBEDDING = 256


def plain(file: Path, rule: str, report: Report) -> list[Placed]:
    if not file.is_file():
        report(Problem(rule, file, None, "is missing"))
        return []
    return read_plain(file, report)


def metadata_keys(placed: Placed, name: str, report: Report) -> None:
    keys = METADATA_KEYS[name]
    if extra := sorted(set(placed.row) - keys.needed - keys.optional):
        report(placed.problem("metadata-keys", f"has {', '.join(map(repr, extra))}, which their table does not have"))
    if missing := sorted(k for k in keys.needed if placed.row.get(k) is None):
        report(placed.problem("metadata-keys", f"lacks {', '.join(map(repr, missing))}, which their table needs"))


class Source:
    """The rules of one source, applied to each of its files and rows."""

    def __init__(self, folder: Path, config: dict[str, set[str]], report: Report) -> None:
        self.folder, self.config, self.report = folder, config, report
        self.model, self.source = folder.parent.name, folder.name
        self.set = self.source.partition("-")[2]
        self.features: Known | None = None  # None: the folder is missing
        self.explanations: Known | None = None

    def check(self) -> dict[str, int]:
        if not self.folder.is_dir() or not is_source(self.source):
            self.report(Problem("place", self.folder, None, "expected a folder named <layer>-<set>"))
            return {}
        self._metadata()
        rules: dict[str, Callable[[Placed], None]] = {
            FEATURES: self._feature,
            ACTIVATIONS: self._activation,
            EXPLANATIONS: self._explanation,
            SCORES: self._score,
        }
        there = {table for table in rules if (self.folder / table).is_dir()}
        if FEATURES in there and ACTIVATIONS not in there:
            self.report(Problem("table", self.folder / ACTIVATIONS, None, "is missing"))
        if not there & {FEATURES, EXPLANATIONS}:
            self.report(Problem("table", self.folder, None, "holds neither features nor explanations"))
        self.features = Known() if FEATURES in there else None
        self.explanations = Known() if EXPLANATIONS in there else None
        return {table: self._table(table, rule) for table, rule in rules.items() if table in there}

    def _metadata(self) -> None:
        expected = {
            "release": {},
            "model": {"id": self.model},
            "sourceset": {"modelId": self.model, "name": self.set},
            "source": {"modelId": self.model, "id": self.source, "setName": self.set},
        }
        for name in METADATA:
            file = self.folder / f"{name}.jsonl"
            lines = plain(file, "metadata", self.report)
            if len(lines) > 1:
                self.report(Problem("metadata", file, 2, "expected one line"))
            for placed in lines:
                metadata_keys(placed, name, self.report)
                for key, value in expected[name].items():
                    if placed.row.get(key) != value:
                        self.report(
                            placed.problem(
                                "names", f"{key!r} is {placed.row.get(key)!r}, and the folder says {value!r}"
                            )
                        )
        if extra := sorted(p.name for p in self.folder.iterdir() if p.is_file() and p.stem not in METADATA):
            self.report(Problem("metadata", self.folder / extra[0], None, "is none of the files that are read"))

    def _table(self, table: str, rule: Callable[[Placed], None]) -> int:
        n_features: dict[Path, int] = {}  # features of each file, counted only up to the number needed
        here: set[str] = set()
        key, n = "index" if table == FEATURES else "id", 0
        for placed in read_table(self.folder / table, KEYS[table], key, self.report):
            if placed.file not in n_features:
                here = set()
            if len(here) < FEATURES_PER_FILE:
                here.add(str(placed.row.get("explanationId", placed.row.get("index"))))
            n_features[placed.file] = len(here)
            n += 1
            if placed.row[AUTHOR[table]] != BOT:
                self.report(placed.problem("author", f"{AUTHOR[table]!r} is not the bot's, {BOT}"))
            if not _is_time(placed.row["createdAt"]):
                self.report(placed.problem("time", f"'createdAt' is {placed.row['createdAt']!r}: expected ISO 8601"))
            if table != SCORES:
                self._names(placed)
            rule(placed)
        self._files(table, n_features)
        return n

    def _files(self, table: str, n_features: dict[Path, int]) -> None:
        if len(n_features) > FILES_PER_FOLDER:
            self.report(
                Problem("too-many-files", self.folder / table, None, f"{len(n_features):,} files, and 1,000 are read")
            )
        for file, n in list(n_features.items())[:-1]:
            if n < FEATURES_PER_FILE:
                what = f"{n:,} features: write {FEATURES_PER_FILE:,} or more in all files but the last"
                self.report(Problem("small-file", file, None, what))

    def _names(self, placed: Placed) -> None:
        for key, value in (("modelId", self.model), ("layer", self.source)):
            if placed.row[key] != value:
                self.report(placed.problem("names", f"{key!r} is {placed.row[key]!r}, and the folder says {value!r}"))
        if index_of(placed.row["index"]) is None:
            self.report(placed.problem("index", f"'index' is {placed.row['index']!r}: expected a number"))

    def _feature(self, placed: Placed) -> None:
        row = placed.row
        assert self.features is not None
        if (index := index_of(row["index"])) is not None:
            self.features.add(index)
        if row["sourceSetName"] != self.set:
            self.report(
                placed.problem(
                    "names", f"'sourceSetName' is {row['sourceSetName']!r}, and the folder says {self.set!r}"
                )
            )
        for one, other in _PAIRS:
            if not _equally_long(row[one], row[other]):
                self.report(placed.problem("lengths", f"{one!r} and {other!r} are not lists of equal length"))
        if not _is_number(row["frac_nonzero"]) or not 0 <= row["frac_nonzero"] <= 1:
            self.report(placed.problem("score", "'frac_nonzero' is not within 0..1"))

    def _activation(self, placed: Placed) -> None:
        row = placed.row
        tokens, values = row["tokens"], row["values"]
        if not _equally_long(tokens, values) or not values:
            self.report(placed.problem("lengths", "'tokens' and 'values' are not lists of equal length"))
            return
        if not all(map(_is_number, values)):
            self.report(placed.problem("lengths", "'values' holds what is no number"))
            return
        at = row["maxValueTokenIndex"]
        if row["maxValue"] != max(values) or row["minValue"] != min(values):
            self.report(placed.problem("extremes", "'maxValue' or 'minValue' is not that of 'values'"))
        elif not isinstance(at, int) or not 0 <= at < len(values) or values[at] != row["maxValue"]:
            self.report(placed.problem("extremes", "'maxValueTokenIndex' does not point at 'maxValue'"))
        if not _is_bin(row["binMin"], row["binMax"], row["binContains"]):
            self.report(placed.problem("bins", "neither the TOP group, marked by -1, nor an interval with its share"))
        self._refers(placed, self.features)

    def _explanation(self, placed: Placed) -> None:
        row = placed.row
        assert self.explanations is not None
        self.explanations.add(row["id"])
        if not isinstance(row["description"], str) or not row["description"].strip():
            self.report(placed.problem("needed-keys", "'description' is no text"))
        embedding = row["embedding"]
        if embedding is not None and not (isinstance(embedding, list) and len(embedding) == _EMBEDDING):
            self.report(placed.problem("embedding", f"expected null, or {_EMBEDDING} numbers"))
        self._named(placed, {"typeName": "explanation_type", "explanationModelName": "explanation_model_type"})
        self._refers(placed, self.features)

    def _score(self, placed: Placed) -> None:
        row = placed.row
        if not _is_number(row["value"]) or not 0 <= row["value"] <= 1:
            self.report(placed.problem("score", f"'value' is {row['value']!r}: expected a number within 0..1"))
        if not _is_json(row["jsonDetails"]):
            self.report(placed.problem("score", "'jsonDetails' is no text of JSON"))
        if self.explanations is None or row["explanationId"] not in self.explanations:
            self.report(placed.problem("reference", f"explanation {row['explanationId']!r} is not in the tree"))
        names = {
            "explanationScoreTypeName": "explanation_score_type",
            "explanationScoreModelName": "explanation_score_model",
        }
        self._named(placed, names, optional=False)

    def _named(self, placed: Placed, files: dict[str, str], optional: bool = True) -> None:
        for key, file in files.items():
            name = placed.row[key]
            if not (name is None and optional) and name not in self.config[file]:
                self.report(placed.problem("reference", f"{key!r} {name!r} is not in v1/config/{file}.jsonl"))

    def _refers(self, placed: Placed, known: Known | None) -> None:
        # A tree of only explanations belongs to features that Neuronpedia has already.
        index = index_of(placed.row["index"])
        if known is not None and index is not None and index not in known:
            self.report(placed.problem("reference", f"feature {index} is not in the tree"))


def index_of(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _equally_long(one: Any, other: Any) -> bool:
    return isinstance(one, list) and isinstance(other, list) and len(one) == len(other)


def _is_bin(low: Any, high: Any, share: Any) -> bool:
    if share is None or not all(map(_is_number, (low, high, share))):
        return False
    return bool(low == TOP if share == TOP else 0 <= share <= 1 and low <= high)


def _is_time(value: Any) -> bool:
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_json(value: Any) -> bool:
    try:
        json.loads(value)
    except (TypeError, ValueError):
        return False
    return True
