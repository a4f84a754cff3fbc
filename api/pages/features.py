"""A feature: its label and how far to trust it, the contexts that say so, and what people say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from api.folders import Folders
from api.pages.access import Editor, Form, Viewer
from api.pages.charts import activation_histogram, score_scale
from api.pages.contexts import Group, brought_groups, explain_groups, held_out_groups
from api.pages.render import is_partial, render, url
from api.pages.saes import chosen_set, newest_sets
from api.pages.verdict import verdict
from api.parameters import FeatureIndex, SaeReference, SetQuery, StoreOf
from labeler.asked import Asked, asked_for
from labeler.errors import DamagedError, InputError, NotFoundError, reason_of
from labeler.evidence.store import BY_OTHERS, EvidenceFolder
from labeler.recipe import Recipe
from labeler.records import Source
from labeler.showing import FeatureView
from labeler.store import Store, catalogue
from labeler.store.catalogue import SaeInfo, SetInfo
from labeler.store.imported import evidence_folder, imported_contexts, is_imported
from labeler.store.ledger import SqlLedger
from labeler.store.lookup import lookup_labels
from labeler.store.queries import labels_of_feature
from labeler.store.reviews import Verdict, add_review, reviews_of_feature

router = APIRouter()
_NEAREST = 8
Embed = Annotated[int, Query(ge=0, le=1, description="1: the feature alone, for a frame in another page.")]


@dataclass(frozen=True)
class Place:
    """Which feature, and in which label set."""

    sae: SaeInfo
    index: int
    sets: list[SetInfo]  # the newest first
    chosen: SetInfo | None

    def address(self, index: int | None = None, **query: Any) -> str:
        return url(f"/saes/{self.sae.id}/features/{self.index if index is None else index}", **query)


def _place(store: Store, sae: str, index: int, wanted: int | None) -> Place:
    """Raises NotFoundError."""
    info = catalogue.find_sae(store, sae)
    if index >= info.n_features:
        raise NotFoundError(f"feature {index}: SAE {info.id} has features 0 to {info.n_features - 1}")
    sets = newest_sets(store, info, wanted)
    return Place(info, index, sets, chosen_set(info, sets, wanted))


@router.get("/saes/{sae}/features/{index}")
def feature_page(
    request: Request, store: StoreOf, _: Viewer, sae: SaeReference, index: FeatureIndex,
    set: SetQuery = None, embed: Embed = 0,
) -> Response:  # fmt: skip
    place = _place(store, sae, index, set)
    labels = labels_of_feature(store, place.sae.id, index)
    if set is None and labels:  # the newest set that has something to say of this feature
        place = _place(store, sae, index, labels[0]["label_set_id"])
    own = next((row for row in labels if place.chosen and row["label_set_id"] == place.chosen.id), None)
    evidence = _evidence(store, request.app.state.folders, place)
    values = {
        "place": place, "labels": labels, "own": own, "recipes": _recipes(store, labels), "wanted": set,
        "scale": _scale, "verdict": verdict(own),
        **evidence, **_reviews(store, place),
    }  # fmt: skip
    template = "feature_embedded.html.j2" if embed else "feature.html.j2"
    return render(request, template, embedded=bool(embed), **values)


def _scale(row: Mapping[str, Any]) -> Any:
    score = row["scores"].get("simulation") or {}
    return score_scale(
        row["score"], row["score_low"], row["score_high"], row["baseline_token_lookup"], score.get("null_mean"),
        row["score_null_z"],
    )  # fmt: skip


def _recipes(store: Store, labels: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["label_set_id"]: store.recipe_of(row["label_set_id"]) for row in labels}


def _evidence(store: Store, folders: Folders, place: Place) -> dict[str, Any]:
    """What the evidence folder says; where it cannot be read, the reason, and the rest of the page stands."""
    try:
        chosen = None if place.chosen is None else place.chosen.id
        folder, view = folders.view(store, place.sae.id, place.index, chosen)
    except (DamagedError, NotFoundError) as error:
        groups, most = _brought(store, place)
        return {
            "view": None, "groups": groups, "neighbours": [], "histogram": None, "most": most,
            "contexts_reason": f"There are no {'other ' if groups else ''}contexts here: {reason_of(error)}.",
        }  # fmt: skip
    most = view.result.statistics.max or max((c.peak for c in view.explain), default=0.0)
    return {
        "view": view, "groups": _groups(folder, view, most), "neighbours": _neighbours(store, place, view),
        "histogram": activation_histogram(view.result.statistics.histogram), "contexts_reason": None, "most": most,
    }  # fmt: skip


def _brought(store: Store, place: Place) -> tuple[list[Group], float]:
    """The contexts that came along with an imported label set, and the highest activation in them."""
    if place.chosen is None:
        return [], 0.0
    contexts = imported_contexts(store, place.chosen.id, [place.index]).get(place.index, [])
    most = max((max(c["activations"], default=0.0) for c in contexts), default=0.0)
    return brought_groups([(c["tokens"], c["activations"]) for c in contexts], most), most


def _groups(folder: EvidenceFolder, view: FeatureView, most: float) -> list[Group]:
    groups = [*explain_groups(folder, view.explain, most), *held_out_groups(folder, view.result.simulations, most)]
    return sorted(groups, key=lambda group: list(Source).index(group.source))


def _neighbours(store: Store, place: Place, view: FeatureView) -> list[tuple[int, float, str | None]]:
    """(feature, cosine, its newest label) of the nearest features."""
    nearest = view.neighbours[:_NEAREST]
    rows = lookup_labels(store, [(place.sae.id, feature) for feature, _ in nearest]) if nearest else []
    return [
        (feature, cosine, None if row is None else row["label"])
        for (feature, cosine), row in zip(nearest, rows, strict=True)
    ]


# What was asked of LLMs


@router.get("/saes/{sae}/features/{index}/prompts")
def prompts_page(
    request: Request, store: StoreOf, _: Viewer, sae: SaeReference, index: FeatureIndex, set: SetQuery = None
) -> Response:
    """Every prompt behind a label, made once more, and its reply from the ledger."""
    place = _place(store, sae, index, set)
    asked: tuple[Asked, ...] = ()
    reason = None
    if place.chosen is None:
        reason = "there is no label set yet"
    else:
        recipe = store.recipe_of(place.chosen.id)
        try:
            path = evidence_folder(store, place.chosen.id)
            if is_imported(path) or BY_OTHERS in recipe:
                raise InputError("these labels were made elsewhere")
            folder = request.app.state.folders.folder(path)
            asked = asked_for(folder, index, Recipe.from_dict(recipe), SqlLedger(store))
            reason = None if asked else "no LLM was asked for this result"
        except InputError as error:
            reason = f"the prompts cannot be made again: {reason_of(error)}"
    name = "prompts_part.html.j2" if is_partial(request) else "prompts.html.j2"
    return render(request, name, place=place, asked=asked, reason=reason)


# Reviews


def _reviews(store: Store, place: Place, problem: str | None = None) -> dict[str, Any]:
    return {"reviews": reviews_of_feature(store, place.sae.id, place.index), "review_problem": problem}


@router.post("/saes/{sae}/features/{index}/reviews")
def review(
    request: Request, store: StoreOf, caller: Editor, form: Form, sae: SaeReference, index: FeatureIndex
) -> Response:
    """Keep what a person says. A form that cannot be kept comes back with the reason."""
    label_set = form.get("set", "")
    if not (label_set.isascii() and label_set.isdecimal() and len(label_set) < 10):
        raise InputError("set: expected the id of a label set")
    place = _place(store, sae, index, int(label_set))
    problem = None
    try:
        if form.get("verdict") not in list(Verdict):
            raise InputError(f"verdict: choose {', '.join(Verdict)}")
        text = form.get("text", "").strip() if form["verdict"] == Verdict.BETTER else None
        comment = form.get("comment", "").strip() or None
        assert place.chosen is not None
        add_review(store, place.chosen.id, index, Verdict(form["verdict"]), caller.name, text or None, comment)
    except InputError as error:
        problem = str(error)
    if is_partial(request):
        own = {"label_set_id": place.chosen and place.chosen.id}
        return render(request, "reviews.html.j2", place=place, own=own, **_reviews(store, place, problem))
    if problem is not None:
        raise InputError(problem)
    return RedirectResponse(place.address(set=label_set) + "#reviews", 303)
