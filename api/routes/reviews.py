"""Reviews of labels by people. Nothing here overwrites a label, and nothing is deleted."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api.access import Reader, Submitter
from api.parameters import PROBLEMS, FeatureIndex, SetId, StoreOf
from labeler.rest_schema import Review, ReviewRequest, Reviews
from labeler.store.label_sets import catalogue
from labeler.store.people.reviews import add_review, reviews_of_label, withdraw_review
from labeler.terms import Scope

router = APIRouter(tags=["reviews"], responses=PROBLEMS)


@router.get("/labels/{set}/{index}/reviews")
def list_reviews(store: StoreOf, _: Reader, set: SetId, index: FeatureIndex) -> Reviews:
    """Reviews of one label, oldest first, the withdrawn ones too."""
    catalogue.find_set(store, set)
    return Reviews.model_validate({"items": reviews_of_label(store, set, index)})


@router.post("/labels/{set}/{index}/reviews", status_code=201)
def review(store: StoreOf, caller: Submitter, set: SetId, index: FeatureIndex, asked: ReviewRequest) -> Review:
    """Accept a label, reject it, comment on it, or correct it. A corrected text is kept as another label, with your name."""
    catalogue.find_set(store, set)
    return Review.model_validate(add_review(store, set, index, asked.verdict, caller.name, asked.text, asked.comment))


@router.delete("/labels/{set}/{index}/reviews/{review}")
def withdraw(
    store: StoreOf, caller: Submitter, set: SetId, index: FeatureIndex, review: Annotated[int, Path(ge=1, le=2**31 - 1)]
) -> Review:
    """Withdraw a review of yours: it stays in the history and counts no more. An admin key withdraws anyone's."""
    catalogue.find_set(store, set)
    of_anyone = caller.scope.includes(Scope.ADMIN)
    return Review.model_validate(withdraw_review(store, set, index, review, caller.name, of_anyone=of_anyone))
