"""Results read back from the database, joined with the contexts that the evidence folder holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from labeler.evidence.choose import choose_evidence
from labeler.evidence.directions import Output, read_neighbours, read_output
from labeler.evidence.store import BY_OTHERS, EvidenceFolder
from labeler.pipeline import too_little
from labeler.recipe import SCORING_VERSION, Recipe
from labeler.records import Context, LabeledFeature, Source, Split, State
from labeler.store import Store
from labeler.store.lookup import lookup_labels
from labeler.store.read import result_from_row
from labeler.store.rows import dense


@dataclass(frozen=True)
class FeatureView:
    """One feature as a person sees it."""

    result: LabeledFeature
    explain: tuple[Context, ...]  # what the explainer saw
    label_set: int | None
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    neighbours: tuple[tuple[int, float], ...]


def feature_view(
    folder: EvidenceFolder, feature_index: int, store: Store | None, label_set_id: int | None = None
) -> FeatureView:
    """The feature in a label set (default: the newest of this evidence), or as pending where there is none.

    Without a store nothing has been labelled yet.
    """
    chosen = label_set_id
    if chosen is None and store is not None:
        chosen = _newest(folder, store)
    result = _pending(folder, feature_index)
    recipe = Recipe()
    if chosen is not None and store is not None:
        made_by = store.recipe_of(chosen)
        if BY_OTHERS not in made_by:  # others chose contexts in their own way
            recipe = Recipe.from_dict(made_by)
        row = store.row(chosen, feature_index)
        result = read_result(folder, row) if row is not None else result
    output = read_output(folder.folder, feature_index)
    return FeatureView(
        result,
        explained(folder, feature_index, recipe, result.origin.draw if result.origin is not None else 0),
        chosen,
        _named(folder, output, "promoted"),
        _named(folder, output, "suppressed"),
        read_neighbours(folder.folder, feature_index),
    )


def explained(folder: EvidenceFolder, feature_index: int, recipe: Recipe, draw: int = 0) -> tuple[Context, ...]:
    """The contexts that the explainer saw for its label number `draw`; for a rare feature, all TOP contexts there are.

    None where another version chose them: its choice cannot be made again.
    """
    if recipe.version != SCORING_VERSION:
        return ()
    if too_little(folder.statistics(feature_index), recipe.contexts) is None:
        shown = choose_evidence(folder, feature_index, recipe.contexts, recipe.seed).draws[draw]
        if shown or not recipe.contexts.explain_top:
            return shown
    windows = folder.windows(feature_index, Source.TOP, Split.EXPLAIN)
    return folder.contexts(windows, Source.TOP, Split.EXPLAIN)


def read_results(folder: EvidenceFolder, store: Store, label_set_id: int) -> Iterator[LabeledFeature]:
    """All results of a label set, in the order of features, one in memory at a time."""
    return (read_result(folder, row) for row in store.rows(label_set_id))


def read_result(folder: EvidenceFolder, row: dict[str, Any]) -> LabeledFeature:
    return result_from_row(row, lambda simulation: _context(folder, simulation))


def _context(folder: EvidenceFolder, simulation: dict[str, Any]) -> Context:
    start, n = int(simulation["token_start"]), int(simulation["n_tokens"])
    ids = folder.corpus.tokens[start : start + n].tolist()
    return Context(
        token_start=start,
        document=int(simulation["document"]),
        split=Split(simulation["split"]),
        source=Source(simulation["source"]),
        token_ids=tuple(ids),
        tokens=tuple(folder.vocabulary.text(i) for i in ids),
        activations=dense(simulation["truth"], n),
        weight=simulation["weight"],
        stratum=simulation["stratum"],
    )


def _newest(folder: EvidenceFolder, store: Store) -> int | None:
    return next((s.id for s in reversed(store.label_sets()) if s.evidence_hash == folder.hash), None)


def _pending(folder: EvidenceFolder, feature_index: int) -> LabeledFeature:
    return LabeledFeature(
        feature_index, State.PENDING, folder.statistics(feature_index), "not labelled yet: run `labeler label`"
    )


def _named(folder: EvidenceFolder, output: Output | None, side: str) -> tuple[tuple[str, float], ...]:
    if output is None:
        return ()
    return tuple((folder.vocabulary.text(token), logit) for token, logit in getattr(output, side))


def describe_feature(view: FeatureView) -> dict[str, Any]:
    """The same as one JSON object."""
    return {
        "feature_index": view.result.feature_index,
        "label_set": view.label_set,
        "state": view.result.state,
        "reason": view.result.reason,
        "label": None if view.result.label is None else view.result.label.text,
        "explainer": None if view.result.label is None else view.result.label.explainer,
        "origin": None if view.result.origin is None else asdict(view.result.origin),
        "scores": {s.name: asdict(s) for s in view.result.scores},
        "statistics": {**asdict(view.result.statistics), "density": view.result.statistics.density},
        "promoted": view.promoted,
        "suppressed": view.suppressed,
        "neighbours": view.neighbours,
        "explain": [asdict(c) for c in view.explain],
        "held_out": [
            {**asdict(s.context), "predicted": s.predicted, "reason": s.reason, "n_flagged": s.n_flagged}
            for s in view.result.simulations
        ],
    }


def joined_activations(store: Store, sae: int, answer: dict[str, Any]) -> dict[str, Any]:
    """What fires on a text (evidence/activations.py), with the newest label of each feature."""
    labels = lookup_labels(store, [(sae, feature["feature_index"]) for feature in answer["features"]])
    return {
        "n_firing": answer["n_firing"],
        "tokens": [
            {**token, "top": [{"feature_index": feature, "activation": value} for feature, value in token["top"]]}
            for token in answer["tokens"]
        ],
        "features": [
            {**feature, "label": label} for feature, label in zip(answer["features"], labels, strict=True)
        ],
    }  # fmt: skip
