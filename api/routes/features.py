"""One feature: all that is known of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request, Response

from api.access import Reader
from api.folders import Folders
from api.parameters import PROBLEMS, FeatureIndex, SaeReference, SetQuery, StoreOf, kept
from labeler.errors import DamagedError, InputError, NotFoundError, reason_of
from labeler.records import Context, Source, Split
from labeler.rest_schema import Feature
from labeler.store import Store
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.choice import default_set
from labeler.store.label_sets.imported import imported_contexts
from labeler.store.label_sets.queries import labels_of_feature
from labeler.store.label_sets.written import people_of_feature
from labeler.store.people.reviews import reviews_of_feature
from labeler.views import FeatureView

router = APIRouter(tags=["features"], responses=PROBLEMS)


@router.get("/features/{sae}/{index}", response_model=Feature)
@router.get("/saes/{sae}/features/{index}", response_model=Feature, name="read_feature_of_sae")
def read_feature(
    store: StoreOf, _: Reader, request: Request, sae: SaeReference, index: FeatureIndex, set: SetQuery = None
) -> Response:
    """Read all of a feature: statistics, contexts, labels with scores, simulations, neighbors, output tokens."""
    found = catalogue.find_sae(store, sae)
    if index >= found.n_features:
        raise NotFoundError(f"feature {index} is out of range: SAE {found.id} has features 0 to {found.n_features - 1}")
    labels = labels_of_feature(store, found.id, index)
    chosen = set if set is not None else default_set(store, sae=found.id, feature=index)
    labels += people_of_feature(store, found.id, index)
    contexts = _contexts(store, request.app.state.folders, found.id, index, chosen)
    answer = {
        "sae": found.id,
        "feature_index": index,
        "label_set_id": chosen,
        "labels": labels,
        "reviews": reviews_of_feature(store, found.id, index),
        **contexts,
    }
    return kept(request, Feature.model_validate(answer))


def _contexts(store: Store, folders: Folders, sae: int, index: int, label_set: int | None) -> dict[str, Any]:
    """Read the evidence's part of the answer, or give the reason why its folder cannot be read."""
    if label_set is not None and catalogue.find_set(store, label_set).sae_id != sae:
        raise InputError(f"label set {label_set} is of another SAE than {sae}")
    try:
        _, view = folders.view(store, sae, index, label_set)
    except (DamagedError, NotFoundError) as error:
        return {**_without_evidence(store, index, label_set), "contexts_reason": reason_of(error)}
    return {**_shown(view), "contexts_reason": None}


def _without_evidence(store: Store, index: int, label_set: int | None) -> dict[str, Any]:
    """Answer from the row, with the EXPLAIN contexts that an imported label set brought."""
    empty = dict.fromkeys(("held_out", "promoted", "suppressed", "places", "neighbours"), ())
    if label_set is None:
        return {**empty, "explain": (), "statistics": None}
    row = store.row(label_set, index)
    brought = imported_contexts(store, label_set, [index]).get(index, [])
    known = {"document": None, "split": Split.EXPLAIN, "source": Source.TOP}
    contexts = [{**known, "tokens": context["tokens"], "activations": context["activations"]} for context in brought]
    return {**empty, "explain": contexts, "statistics": row and row["statistics"]}


def _shown(view: FeatureView) -> dict[str, Any]:
    statistics = view.result.statistics
    return {
        "statistics": {**vars(statistics), "density": statistics.density, "mark": statistics.mark},
        "explain": [_context(context) for context in view.explain],
        "held_out": [
            {**_context(s.context), "predicted": s.predicted, "reason": s.reason, "n_flagged": s.n_flagged}
            for s in view.result.simulations
        ],
        "promoted": _tokens(view.promoted),
        "suppressed": _tokens(view.suppressed),
        "places": [
            {"place": of.place, "promoted": _tokens(of.promoted), "suppressed": _tokens(of.suppressed)}
            for of in view.places
        ],
        "neighbours": [{"feature_index": feature, "cosine": cosine} for feature, cosine in view.neighbours],
    }


def _tokens(pairs: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"token": token, "logit": logit} for token, logit in pairs]


def _context(context: Context) -> dict[str, Any]:
    names = ("document", "split", "source", "tokens", "activations")
    return {name: getattr(context, name) for name in names}
