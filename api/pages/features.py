"""A feature: its label and how far to trust it, the contexts that say so, and what people say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from api.access import Caller
from api.folders import Folders
from api.pages.access import Editor, Form, Viewer
from api.pages.charts import activation_histogram, score_scale
from api.pages.contexts import Group, brought_groups, explain_groups, held_out_groups
from api.pages.render import is_partial, render, url
from api.pages.saes import sets_and_chosen
from api.pages.verdict import verdict
from api.parameters import FeatureIndex, SaeReference, SetQuery, StoreOf
from labeler.errors import DamagedError, InputError, NotFoundError, reason_of
from labeler.evidence.store import BY_OTHERS, EvidenceFolder
from labeler.recipe import Recipe
from labeler.records import Source
from labeler.replay import ReplayedRequest, replay_requests
from labeler.store import Store
from labeler.store.base.ledger import SqlLedger
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.batch_get import batch_get
from labeler.store.label_sets.catalogue import SaeInfo, SetInfo
from labeler.store.label_sets.imported import evidence_folder, imported_contexts, is_imported
from labeler.store.label_sets.queries import labels_of_feature
from labeler.store.people.reviews import add_review, reviews_of_feature, withdraw_review
from labeler.terms import Scope, Verdict
from labeler.views import FeatureView

router = APIRouter()
_NEAREST = 8
ReviewId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Embed = Annotated[int, Query(ge=0, le=1, description="1: only the feature, for a frame in another page.")]


@dataclass(frozen=True)
class Place:
    """A feature in a label set, with the addresses of its pages."""

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
    return Place(info, index, *sets_and_chosen(store, info, wanted, index))


@router.get("/saes/{sae}/features/{index}")
def feature_page(
    request: Request,
    store: StoreOf,
    caller: Viewer,
    sae: SaeReference,
    index: FeatureIndex,
    set: SetQuery = None,
    embed: Embed = 0,
) -> Response:
    return _page(request, store, caller, sae, index, set, embedded=bool(embed))


def _page(
    request: Request,
    store: Store,
    caller: Caller,
    sae: str,
    index: int,
    wanted: int | None,
    *,
    embedded: bool = False,
    form: ReviewForm | None = None,
) -> Response:
    place = _place(store, sae, index, wanted)
    labels = labels_of_feature(store, place.sae.id, index)
    own = next((row for row in labels if place.chosen and row["label_set_id"] == place.chosen.id), None)
    evidence = _evidence(store, request.app.state.folders, place)
    values = {
        "place": place,
        "labels": labels,
        "own": own,
        "recipes": _recipes(store, labels),
        "scale": _scale,
        "verdict": verdict(own),
        **evidence,
        **_reviews(store, caller, place, form),
    }
    template = "feature_embedded.html.j2" if embedded else "feature.html.j2"
    status = 422 if form is not None and form.problem else 200
    return render(request, template, status, embedded=embedded, **values)


def _scale(row: Mapping[str, Any]) -> Any:
    score = row["scores"].get("simulation") or {}
    return score_scale(
        row["score"],
        row["score_low"],
        row["score_high"],
        row["baseline_token_lookup"],
        score.get("null_mean"),
        row["score_null_z"],
    )


def _recipes(store: Store, labels: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["label_set_id"]: store.recipe_of(row["label_set_id"]) for row in labels}


def _evidence(store: Store, folders: Folders, place: Place) -> dict[str, Any]:
    """Read the page's values from the evidence folder, or give the reason why it cannot be read."""
    try:
        chosen = None if place.chosen is None else place.chosen.id
        folder, view = folders.view(store, place.sae.id, place.index, chosen)
    except (DamagedError, NotFoundError) as error:
        groups, most = _brought(store, place)
        return {
            "view": None,
            "groups": groups,
            "neighbours": [],
            "histogram": None,
            "most": most,
            "contexts_reason": f"There are no {'other ' if groups else ''}contexts here: {reason_of(error)}.",
        }
    most = view.result.statistics.max or max((c.peak for c in view.explain), default=0.0)
    return {
        "view": view,
        "groups": _groups(folder, view, most),
        "neighbours": _neighbours(store, place, view),
        "histogram": activation_histogram(view.result.statistics.histogram),
        "contexts_reason": None,
        "most": most,
    }


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
    """(feature, cosine, label) of the nearest features: the label of this label set, else the newest."""
    nearest = view.neighbours[:_NEAREST]
    pairs = [(place.sae.id, feature) for feature, _ in nearest]
    here = batch_get(store, pairs, label_sets=[place.chosen.id]) if pairs and place.chosen else [None] * len(pairs)
    rows = [mine or other for mine, other in zip(here, batch_get(store, pairs) if pairs else (), strict=True)]
    return [
        (feature, cosine, None if row is None else row["label"])
        for (feature, cosine), row in zip(nearest, rows, strict=True)
    ]


# Requests to LLMs


@router.get("/saes/{sae}/features/{index}/prompts")
def prompts_page(
    request: Request, store: StoreOf, _: Viewer, sae: SaeReference, index: FeatureIndex, set: SetQuery = None
) -> Response:
    """Show every prompt behind a label, made again, and its reply from the ledger."""
    place = _place(store, sae, index, set)
    asked: tuple[ReplayedRequest, ...] = ()
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
            asked = replay_requests(folder, index, Recipe.from_dict(recipe), SqlLedger(store))
            reason = None if asked else "no LLM was asked for this result"
        except InputError as error:
            reason = f"the prompts cannot be made again: {reason_of(error)}"
    name = "prompts_part.html.j2" if is_partial(request) else "prompts.html.j2"
    return render(request, name, place=place, asked=asked, reason=reason)


# Reviews


@dataclass(frozen=True)
class ReviewForm:
    """The texts that a person typed, and the problem with them, for the form that comes back."""

    text: str = ""
    comment: str = ""
    problem: str | None = None
    field: str | None = None  # that the problem is about


def _reviews(store: Store, caller: Caller, place: Place, form: ReviewForm | None = None) -> dict[str, Any]:
    return {
        "reviews": reviews_of_feature(store, place.sae.id, place.index),
        "form": form or ReviewForm(),
        "caller": caller,
        "may_review": caller.scope.includes(Scope.SUBMIT),
        "may_withdraw_all": caller.scope.includes(Scope.ADMIN),
    }


@router.post("/saes/{sae}/features/{index}/reviews")
def review(
    request: Request, store: StoreOf, caller: Editor, form: Form, sae: SaeReference, index: FeatureIndex
) -> Response:
    """Keep what a person says. A form that cannot be kept comes back as it was, with the reason at its field."""
    place = _place(store, sae, index, _set_in(form))
    assert place.chosen is not None
    given = ReviewForm(form.get("text", "").strip(), form.get("comment", "").strip())
    try:
        verdict = _verdict_of(form.get("verdict", "save"), given)
        text = given.text if verdict is Verdict.CORRECTED else None
        add_review(store, place.chosen.id, index, verdict, caller.name, text, given.comment or None)
        given = ReviewForm()
    except InputError as error:
        given = replace(given, problem=str(error), field=_field_of(error))
    return _after_review(request, store, caller, place, given)


@router.post("/saes/{sae}/features/{index}/reviews/{review}/withdraw")
def withdraw(
    request: Request,
    store: StoreOf,
    caller: Editor,
    form: Form,
    sae: SaeReference,
    index: FeatureIndex,
    review: ReviewId,
) -> Response:
    """Withdraw a review: it no longer counts, and stays in the list, crossed out."""
    place = _place(store, sae, index, _set_in(form))
    assert place.chosen is not None
    of_anyone = caller.scope.includes(Scope.ADMIN)
    withdraw_review(store, place.chosen.id, index, review, caller.name, of_anyone=of_anyone)
    return _after_review(request, store, caller, place, ReviewForm())


def _set_in(form: Mapping[str, str]) -> int:
    label_set = form.get("set", "")
    if not (label_set.isascii() and label_set.isdecimal() and len(label_set) < 10):
        raise InputError("set: expected the id of a label set")
    return int(label_set)


def _verdict_of(word: str, given: ReviewForm) -> Verdict:
    """The verdict that a button gives. `save`, which is also Enter, keeps what the fields hold. Raises InputError."""
    if word == "save":
        if not (given.text or given.comment):
            raise InputError("text: write a corrected text or a comment, then save it")
        return Verdict.CORRECTED if given.text else Verdict.COMMENT
    if word not in list(Verdict):
        raise InputError(f"verdict: choose {', '.join(Verdict)}")
    verdict = Verdict(word)
    if verdict is Verdict.CORRECTED and not given.text:
        raise InputError("text: write the corrected text first")
    if verdict is not Verdict.CORRECTED and given.text:
        raise InputError(f"text: save this text, or clear the field to {verdict} the label as it is")
    return verdict


def _field_of(error: InputError) -> str | None:
    """The field that a problem begins with."""
    name = str(error).partition(":")[0]
    return name if name in ("text", "comment") else None


def _after_review(request: Request, store: Store, caller: Caller, place: Place, form: ReviewForm) -> Response:
    assert place.chosen is not None
    if is_partial(request):
        own = next(
            (r for r in labels_of_feature(store, place.sae.id, place.index) if r["label_set_id"] == place.chosen.id),
            None,
        )
        return render(request, "reviews.html.j2", place=place, own=own, **_reviews(store, caller, place, form))
    if form.problem is not None:
        return _page(request, store, caller, str(place.sae.id), place.index, place.chosen.id, form=form)
    return RedirectResponse(place.address(set=place.chosen.id) + "#reviews", 303)
