"""What people say of labels. Nothing here overwrites a label."""

from __future__ import annotations

from fastapi import APIRouter

from api.access import Reader, Submitter
from api.parameters import PROBLEMS, FeatureIndex, SetId, StoreOf
from labeler.store import catalogue
from labeler.store.reviews import add_review, reviews_of_label
from labeler.wire import Review, ReviewRequest, Reviews

router = APIRouter(tags=["reviews"], responses=PROBLEMS)


@router.get("/labels/{set}/{index}/reviews")
def list_reviews(store: StoreOf, _: Reader, set: SetId, index: FeatureIndex) -> Reviews:
    """Reviews of one label, oldest first."""
    catalogue.find_set(store, set)
    return Reviews.model_validate({"items": reviews_of_label(store, set, index)})


@router.post("/labels/{set}/{index}/reviews", status_code=201)
def review(store: StoreOf, caller: Submitter, set: SetId, index: FeatureIndex, asked: ReviewRequest) -> Review:
    """Accept a label, reject it, or give a better one, which is kept as another label, under your name."""
    catalogue.find_set(store, set)
    return Review.model_validate(add_review(store, set, index, asked.verdict, caller.name, asked.text, asked.comment))
