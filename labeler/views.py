"""Read results from the database and join them with the contexts in the evidence folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from labeler.evidence.choose import choose_evidence
from labeler.evidence.directions import Output, PlaceOutput, read_neighbours, read_output, read_places
from labeler.evidence.store import BY_OTHERS, EvidenceFolder
from labeler.recipe import SCORING_VERSION, Recipe
from labeler.records import Context, LabeledFeature, Simulation, Source, Split, State
from labeler.steps.read import too_little
from labeler.store import Store
from labeler.store.base.rows import dense
from labeler.store.label_sets.batch_get import batch_get
from labeler.store.label_sets.choice import default_set
from labeler.store.label_sets.read import result_from_row
from labeler.subject.vocabulary import Span, Vocabulary, character_spans

_CUT = "\ufffd"  # what a part of a character shows as


@dataclass(frozen=True)
class PlaceTokens:
    """A place that a feature writes to, and the tokens that it promotes and suppresses from there."""

    place: str
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class FeatureView:
    """One feature as a person sees it."""

    result: LabeledFeature
    explain: tuple[Context, ...]  # what the explainer saw
    label_set: int | None
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    neighbours: tuple[tuple[int, float], ...]
    places: tuple[PlaceTokens, ...] = ()  # where the feature writes to several


def feature_view(
    folder: EvidenceFolder, feature_index: int, store: Store | None, label_set_id: int | None = None
) -> FeatureView:
    """The feature in a label set (default: the one that speaks for it), or as pending where there is none.

    Without a store nothing has been labeled yet.
    """
    chosen = label_set_id
    if chosen is None and store is not None:
        chosen = default_set(store, evidence_hash=folder.hash, feature=feature_index)
    result = _pending(folder, feature_index)
    recipe = Recipe()
    if chosen is not None and store is not None:
        made_by = store.recipe_of(chosen)
        if BY_OTHERS not in made_by:  # others chose contexts in their own way
            recipe = Recipe.from_dict(made_by)
        row = store.row(chosen, feature_index)
        result = read_result(folder, row) if row is not None else result
    output = read_output(folder, feature_index)
    return FeatureView(
        result,
        explained(folder, feature_index, recipe, result.origin.draw if result.origin is not None else 0),
        chosen,
        _named(folder, output, "promoted"),
        _named(folder, output, "suppressed"),
        read_neighbours(folder, feature_index),
        tuple(
            PlaceTokens(of.place, _named(folder, of, "promoted"), _named(folder, of, "suppressed"))
            for of in read_places(folder, feature_index)
        ),
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
    ids = folder.token_ids(start, start + n).tolist()
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


# Tokens as people read them


def in_characters(context: Context, vocabulary: Vocabulary) -> Context:
    """The context with tokens joined that only together are characters, each with the highest of their activations.

    For people: prompts, scores and answers by REST keep every token by itself.
    """
    spans = _spans(context, vocabulary)
    if spans is None:
        return context
    return replace(
        context,
        token_ids=tuple(context.token_ids[s.start] for s in spans),
        tokens=tuple(s.text for s in spans),
        activations=highest_of(spans, context.activations),
    )


def simulated_in_characters(simulation: Simulation, vocabulary: Vocabulary) -> Simulation:
    """The simulation of a context in characters, with the highest of their predictions."""
    spans = _spans(simulation.context, vocabulary)
    if spans is None:
        return simulation
    predicted = None if simulation.predicted is None else highest_of(spans, simulation.predicted)
    return replace(simulation, context=in_characters(simulation.context, vocabulary), predicted=predicted)


def result_in_characters(result: LabeledFeature, vocabulary: Vocabulary) -> LabeledFeature:
    """The result with all its simulations in characters."""
    return replace(result, simulations=tuple(simulated_in_characters(s, vocabulary) for s in result.simulations))


def _spans(context: Context, vocabulary: Vocabulary) -> list[Span] | None:
    """None where every token is whole, which is so of most contexts."""
    if len(context.token_ids) != len(context.tokens) or not any(_CUT in token for token in context.tokens):
        return None
    return vocabulary.spans(context.token_ids)


def highest_of(spans: Sequence[Span], values: Sequence[float]) -> tuple[float, ...]:
    """One value a span: the highest of its tokens."""
    return tuple(max(values[s.start : s.end]) for s in spans)


def answer_in_characters(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the firings on a text (evidence/activations.py), joining tokens that are characters only together."""
    tokens = answer["tokens"]
    if not any(token.get("bytes") for token in tokens):
        return answer
    raw = (token.get("bytes") for token in tokens)
    pieces = [
        bytes.fromhex(b) if b else t["token"].encode("utf-8", "replace") for b, t in zip(raw, tokens, strict=True)
    ]
    spans = character_spans(pieces)
    span_of = [i for i, s in enumerate(spans) for _ in range(s.start, s.end)]
    return {
        **answer,
        "tokens": [_joined_token(s.text, tokens[s.start : s.end]) for s in spans],
        "features": [{**f, **_moved(f["at"], f["activations"], span_of)} for f in answer["features"]],
    }


def _joined_token(text: str, tokens: Sequence[dict[str, Any]]) -> dict[str, Any]:
    highest: dict[int, float] = {}
    for feature, value in (pair for token in tokens for pair in token["top"]):
        highest[feature] = max(value, highest.get(feature, 0.0))
    top = sorted(([f, v] for f, v in highest.items()), key=lambda pair: (-pair[1], pair[0]))
    # Beyond the strongest, which features fire is not known: at least so many do.
    n_firing = max(len(top), *(token["n_firing"] for token in tokens))
    return {"token": text, "n_firing": n_firing, "top": top}


def _moved(at: Sequence[int], activations: Sequence[float], span_of: Sequence[int]) -> dict[str, Any]:
    highest: dict[int, float] = {}
    for token, value in zip(at, activations, strict=True):
        highest[span_of[token]] = max(value, highest.get(span_of[token], 0.0))
    return {"at": list(highest), "activations": list(highest.values())}


def _pending(folder: EvidenceFolder, feature_index: int) -> LabeledFeature:
    return LabeledFeature(
        feature_index, State.PENDING, folder.statistics(feature_index), "not labeled yet: run `labeler label`"
    )


def _named(folder: EvidenceFolder, output: Output | PlaceOutput | None, side: str) -> tuple[tuple[str, float], ...]:
    if output is None:
        return ()
    return tuple((folder.vocabulary.shown(token), logit) for token, logit in getattr(output, side))


def describe_feature(view: FeatureView) -> dict[str, Any]:
    """Return the view of a feature as one JSON object."""
    return {
        "feature_index": view.result.feature_index,
        "label_set": view.label_set,
        "state": view.result.state,
        "reason": view.result.reason,
        "label": None if view.result.label is None else view.result.label.text,
        "explainer": None if view.result.label is None else view.result.label.explainer,
        "origin": None if view.result.origin is None else asdict(view.result.origin),
        "scores": {s.name: asdict(s) for s in view.result.scores},
        "statistics": {
            **asdict(view.result.statistics),
            "density": view.result.statistics.density,
            "mark": view.result.statistics.mark,
        },
        "promoted": view.promoted,
        "suppressed": view.suppressed,
        "neighbours": view.neighbours,
        "places": [asdict(place) for place in view.places],
        "explain": [asdict(c) for c in view.explain],
        "held_out": [
            {**asdict(s.context), "predicted": s.predicted, "reason": s.reason, "n_flagged": s.n_flagged}
            for s in view.result.simulations
        ],
    }


def joined_activations(store: Store, sae: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the firings on a text (evidence/activations.py), with the label that speaks for each feature."""
    labels = batch_get(store, [(sae, feature["feature_index"]) for feature in answer["features"]])
    return {
        "n_firing": answer["n_firing"],
        "tokens": [
            {**token, "top": [{"feature_index": feature, "activation": value} for feature, value in token["top"]]}
            for token in answer["tokens"]
        ],
        "features": [{**feature, "label": label} for feature, label in zip(answer["features"], labels, strict=True)],
    }
