"""A new job: a form, the plan of what it will take, and only then the job.

    form ──Show the plan──► requests, tokens, money ──Submit──► /jobs/{id}

If the form was changed after the plan was shown, the new plan is shown first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import threading
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from api.folders import Folders
from api.pages.access import Editor, Form, Viewer
from api.pages.render import render
from api.parameters import SettingsOf, StoreOf, ids_in
from api.problems import RequestProblem
from api.query import checked_by_route, refuse_others
from api.requests import recipe_of
from api.routes.jobs import AnnounceOf
from labeler.errors import InputError, reason_of
from labeler.label_sets.missing import missing_features
from labeler.label_sets.plan import Plan, plan_labels
from labeler.llm.prices import Prices
from labeler.recipe import Recipe
from labeler.recipes import known_recipes
from labeler.rest_schema import JobRequest
from labeler.selection import select_features
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.jobs.jobs import Jobs, check_request
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.selection_facts import StoredFacts

router = APIRouter()
_SAMPLE = 16  # features whose prompts are measured: half a second
_CHOICES = 200  # of evidence, in the list to choose from
_DEFAULTS = {
    "evidence": "",
    "features": "all",
    "recipe": "standard",
    "explainer": "",
    "simulator": "",
    "budget_usd": "",
    "budget_tokens": "",
    "priority": "5",
}

# A plan is half a second of computing: one at a time leaves the others their part of the processor.
_planning = threading.Semaphore(1)


@router.get("/jobs/new", dependencies=[Depends(checked_by_route)])
def new_job(request: Request, store: StoreOf, settings: SettingsOf, _: Viewer) -> Response:
    """The form; its fields may be filled in the address."""
    refuse_others(request, _DEFAULTS)
    given = {name: request.query_params.get(name, default)[:2000] for name, default in _DEFAULTS.items()}
    given["explainer"] = given["explainer"] or _last_explainer(store)
    return _form(request, store, settings, given)


@router.post("/jobs/new")
def plan_or_submit(
    request: Request, store: StoreOf, settings: SettingsOf, _: Editor, announce: AnnounceOf, form: Form
) -> Response:
    given = {name: form.get(name, default).strip() for name, default in _DEFAULTS.items()}
    try:
        asked = _asked(given)
        recipe = recipe_of(asked)
        if form.get("act") == "submit" and form.get("planned") == _digest(given):
            job = Jobs(store).submit(
                asked.evidence,
                recipe,
                asked.features,
                priority=asked.priority,
                budget_usd=asked.budget.usd,
                budget_tokens=asked.budget.tokens,
                idempotency_key=f"page-{form.get('once', '')[:40]}-{_digest(given)}",
            )
            announce(job)
            return RedirectResponse(f"/jobs/{job.id}", 303)
        plan = make_plan(store, request.app.state.folders, settings, asked, recipe)
    except InputError as error:
        return _form(request, store, settings, given, problem=reason_of(error))
    return _form(
        request,
        store,
        settings,
        given,
        plan=plan,
        recipe=recipe,
        budget=asked.budget,
        digest=_digest(given),
        stale=form.get("act") == "submit",
    )


def _asked(given: dict[str, str]) -> JobRequest:
    """Raises InputError naming the field."""
    if not given["evidence"]:
        raise InputError("evidence: choose what to label")
    if given["recipe"] != "lookup" and not given["explainer"]:
        raise InputError(f"explainer: the recipe {given['recipe']!r} asks an LLM; name it, such as openai:gpt-5-mini")
    filled = {name: text for name, text in given.items() if text}
    budget = {"usd": filled.pop("budget_usd", None), "tokens": filled.pop("budget_tokens", None)}
    try:
        asked = JobRequest.model_validate({**filled, "budget": budget})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    check_request(asked.features, asked.budget.usd, asked.budget.tokens)
    return asked


def make_plan(store: Store, folders: Folders, settings: Settings, asked: JobRequest, recipe: Recipe) -> Plan:
    """Plan the labeling of the selected features without a result.

    Raises InputError, or RequestProblem for too many plans at once.
    """
    path = store.evidence(asked.evidence)[1]
    folder = folders.folder(path)
    label_set = next(
        (s for s in store.label_sets() if (s.evidence_hash, s.recipe_hash) == (folder.hash, recipe.hash)), None
    )
    facts = StoredFacts(store, 0 if label_set is None else label_set.id, asked.evidence, asked.scores_of)
    features = select_features(asked.features, folder.n_features, facts)
    if len(features) == 0:
        raise InputError(f"features {asked.features!r}: no feature is selected")
    if label_set is not None:
        features = missing_features(features, store, label_set)
    if not _planning.acquire(timeout=10):
        raise RequestProblem(429, "others are planning: try again in a few seconds", {"Retry-After": "5"})
    try:
        return asyncio.run(plan_labels(folder, features, recipe, Prices.load(settings.prices), sample=_SAMPLE))
    finally:
        _planning.release()


def _form(
    request: Request,
    store: Store,
    settings: Settings,
    given: dict[str, str],
    *,
    problem: str | None = None,
    plan: Plan | None = None,
    **shown: Any,
) -> Response:
    values = {"recipe": None, "budget": None, "digest": "", "stale": False, **shown}
    return render(
        request,
        "job_new.html.j2",
        422 if problem else 200,
        given=given,
        problem=problem,
        plan=plan,
        once=secrets.token_hex(8),
        choices=_choices(store, given["evidence"]),
        recipes=known_recipes(),
        models=sorted(Prices.load(settings.prices).by_model),
        **values,
    )


def _choices(store: Store, given: str) -> list[tuple[catalogue.EvidenceInfo, catalogue.SaeInfo]]:
    """List the newest evidence, and always the given one: a list without it would show another one as chosen."""
    return catalogue.newest_gathered(store, _CHOICES, ids_in(given))


def _last_explainer(store: Store) -> str:
    """The LLM that was asked last, if any was."""
    return next((s.explainer for s in reversed(store.label_sets()) if s.explainer != "lookup"), "")


def _digest(given: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]
