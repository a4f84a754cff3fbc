"""The explanations and scores of a tree as label sets: one for each type and model, with names and scores."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labeler.errors import FormatError
from labeler.evidence.store import BY_OTHERS, EvidenceFolder
from labeler.neuronpedia.layout import EXPLANATIONS, SCORES
from labeler.neuronpedia.lines import Placed
from labeler.neuronpedia.read import Tree, index_at
from labeler.neuronpedia.rows import LOOKUP_MODEL, OURS
from labeler.neuronpedia.spool import Spool
from labeler.records import Label, LabeledFeature, Score, State, Usage
from labeler.store import Store
from labeler.store.base.rows import row_of
from labeler.terms import LONGEST_LABEL

_ROWS_AT_ONCE = 500
_FIELDS = {f.name for f in fields(Score)}
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Kind:
    """The type and model that all labels of one label set share."""

    type: str | None
    model: str | None
    nth: int  # 0; higher if a feature has several explanations of one type and model

    @property
    def explainer(self) -> str:
        return who(self.model, ours=(self.type or "").startswith(OURS))

    def recipe(self, simulator: str) -> dict[str, Any]:
        """Return the known facts of how the labels were made, in place of a recipe."""
        made = {"typeName": self.type, "explanationModelName": self.model, "nth": self.nth}
        digest = hashlib.sha256(json.dumps([BY_OTHERS, made], sort_keys=True).encode()).hexdigest()
        prompt = (self.type or "unknown").removeprefix(OURS)
        is_lookup = self.explainer == "lookup"
        return {
            "hash": digest[:16],
            BY_OTHERS: made,
            "scorers": [],
            "explainer": {
                "kind": "lookup" if is_lookup else BY_OTHERS,
                "model": None if is_lookup else self.model,
                "prompt_version": prompt,
            },
            "simulator": {"kind": BY_OTHERS, "model": simulator, "prompt_version": "unknown"},
        }


def who(model: str | None, *, ours: bool) -> str:
    """Return a model's name in the form of label sets. A model that labeler asked has its endpoint's kind before it."""
    if model == LOOKUP_MODEL:
        return "lookup"
    return "unknown" if model is None else f"openai:{model}" if ours else model


def read_labels(tree: Tree) -> Iterator[tuple[Kind, Placed, list[tuple[str, Score]]]]:
    """Yield each explanation with its scores. Raises FormatError naming file and line."""
    with Spool() as spool:
        _put_aside(tree, spool)
        for placed in tree.rows(EXPLANATIONS):
            row = placed.row
            text = row["description"]
            if not isinstance(text, str) or not text.strip():
                raise FormatError(str(placed.problem("needed-keys", "'description' is no text")))
            type, model = (None if row.get(k) is None else str(row[k]) for k in ("typeName", "explanationModelName"))
            nth = spool.count(type, model, index_at(placed))
            yield Kind(type, model, nth), placed, spool.take(str(row["id"]))
        if (left := spool.left()) is not None:
            raise FormatError(
                f"{tree.folder / SCORES}: scores of explanation {left!r}, which is not in the tree [reference]"
            )


def _put_aside(tree: Tree, spool: Spool) -> None:
    """Put the scores aside on disk, since their order differs from that of the explanations."""
    for placed in tree.rows(SCORES):
        row = placed.row
        kind = str(row["explanationScoreTypeName"])
        made_by = who(row.get("explanationScoreModelName"), ours=kind.startswith(OURS))
        spool.add(str(row["explanationId"]), made_by, _score(placed, kind))


def _score(placed: Placed, type: str) -> Score:
    value = placed.row["value"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise FormatError(str(placed.problem("score", f"'value' is {value!r}: expected a number within 0..1")))
    ours = _details(placed.row.get("jsonDetails")) if type.startswith(OURS) else None
    if ours is not None and ours.value is not None and abs(min(1.0, max(0.0, ours.value)) - value) < _TOLERANCE:
        return ours
    return Score(type.removeprefix(OURS), float(value))


def _details(text: Any) -> Score | None:
    """Read the score that labeler's own writer left in `jsonDetails`."""
    try:
        values = json.loads(text)
        return Score(**{name: value for name, value in values.items() if name in _FIELDS})
    except (TypeError, ValueError, AttributeError):
        return None


def check_labels(tree: Tree) -> int:
    """Count the labels in the tree. Raises FormatError for one that cannot be read."""
    return sum(1 for _ in read_labels(tree))


def save_labels(store: Store, tree: Tree, evidence: Path) -> dict[int, int]:
    """Save the labels of a tree whose evidence is in `evidence`, and return their number by label set.

    One transaction: an error leaves nothing behind. The same tree gives the same label sets again.
    """
    folder = EvidenceFolder(evidence)
    sets: dict[Kind, int] = {}
    counts: Counter[int] = Counter()
    waiting: dict[int, list[dict[str, Any]]] = {}
    with store.database.writing() as connection:
        for kind, placed, scores in read_labels(tree):
            if kind not in sets:
                simulator = next((name for name, _ in scores), "unknown")
                sets[kind] = store.label_set_in(
                    connection,
                    folder.manifest,
                    str(evidence.resolve()),
                    kind.recipe(simulator),
                    (kind.explainer, simulator),
                )
            label_set = sets[kind]
            row = row_of(label_set, _labeled(folder, kind, placed, [score for _, score in scores]))
            waiting.setdefault(label_set, []).append({**row, "created_at": _time(placed.row.get("createdAt"))})
            counts[label_set] += 1
            if len(waiting[label_set]) >= _ROWS_AT_ONCE:
                store.save_rows_in(connection, label_set, waiting.pop(label_set))
        for label_set, rows in sorted(waiting.items()):
            store.save_rows_in(connection, label_set, rows)
    return dict(counts)


def _labeled(folder: EvidenceFolder, kind: Kind, placed: Placed, scores: list[Score]) -> LabeledFeature:
    index = folder.check(index_at(placed))
    text = placed.row["description"]
    if len(text) > LONGEST_LABEL:  # only this feature loses its label
        reason = f"its label has {len(text):,} characters, and at most {LONGEST_LABEL} are kept"
        return LabeledFeature(index, State.FAILED, folder.statistics(index), reason, usage=Usage(cost_usd=None))
    return LabeledFeature(
        index,
        State.LABELED,
        folder.statistics(index),
        label=Label(text, kind.explainer),
        scores=tuple(scores),
        usage=Usage(cost_usd=None),
    )


def _time(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return datetime.now(UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
