"""The pages: server-rendered, over the very functions that the routes of `/v1` call.

    route ──► labeler.store, labeler.showing ──► values ──► templates/*.html.j2 (render.py: headers, filters, errors)

One module for each page or family of pages; static/ holds one style sheet, htmx, and small scripts of our own.
"""

from fastapi import APIRouter

from api.pages import (
    access,
    card,
    compare,
    features,
    home,
    jobs,
    new_job,
    reference,
    render,
    saes,
    scatter,
    search,
    try_it,
)

pages = APIRouter(include_in_schema=False)
for subject in (home, saes, features, scatter, search, compare, card, reference, access, render, new_job, jobs, try_it):
    pages.include_router(subject.router)

__all__ = ["pages"]
