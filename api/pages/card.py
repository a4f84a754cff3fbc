"""The card of a label set as a page to read and print. It says how the labels were made and how good they are."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.pages.access import Viewer
from api.pages.charts import density_histogram, score_histogram
from api.pages.render import render
from api.parameters import SetId, StoreOf
from labeler.export.card import build_card
from labeler.store.label_sets import catalogue

router = APIRouter()


@router.get("/sets/{set}/card")
def card_page(request: Request, store: StoreOf, _: Viewer, set: SetId) -> Response:
    info = catalogue.find_set(store, set)
    card = build_card(store, set)
    return render(
        request,
        "card.html.j2",
        info=info,
        card=card,
        scores=score_histogram(card["results"]["histogram"]),
        densities=density_histogram(card["sae_quality"] or {}),
        summary=store.summary(set),
    )
