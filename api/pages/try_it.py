"""Try it: a text, and which features fire on which of its tokens. A gather worker reads it; the page waits and says so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, BackgroundTasks, Request
from fastapi.responses import RedirectResponse, Response

from api.access import Caller
from api.folders import Folders
from api.pages.access import Editor, Form, Viewer
from api.pages.render import render
from api.parameters import SettingsOf, StoreOf, ids_in
from api.problems import RequestProblem
from api.routes.activations import RequestId, ask_about
from labeler.errors import InputError
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.jobs.activations import ActivationRequest, Activations
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.batch_get import batch_get
from labeler.terms import MOST_CHARACTERS, OPEN, RequestState, Scope
from labeler.views import answer_in_characters, joined_activations

router = APIRouter()
_SAES = 100  # to choose from
_FEATURES = 100  # in the table
_LABELS, _LONGEST = 2000, 200  # beside single tokens; of characters
_TITLES = 1000  # tokens up to which each says by itself what fires on it
_NOTHING: dict[str, Any] = {"tokens": (), "features": (), "n_firing": 0, "maxima": {}}
_SIGNS = {"\n": "↵\n", "\r": "␍", "\t": "⇥\t"}


@dataclass(frozen=True)
class ShownToken:
    text: str
    heat: int  # 0: nothing fires; 1 to 10: the largest share of a feature's own maximum
    title: str


@router.get("/try")
def empty(
    request: Request, store: StoreOf, settings: SettingsOf, caller: Viewer, sae: str = "", text: str = ""
) -> Response:
    """The form; its fields may be filled in the address."""
    return _page(request, store, settings, caller, sae[:64], text)


@router.post("/try")
def ask(
    request: Request, store: StoreOf, settings: SettingsOf, caller: Editor, form: Form, later: BackgroundTasks
) -> Response:
    sae, text = form.get("sae", "").strip()[:64], form.get("text", "").replace("\r\n", "\n")
    try:
        asked = ask_about(store, settings, sae, _checked(text), later)
    except InputError as error:
        return _page(request, store, settings, caller, sae, text, problem=str(error), status=error.http_status)
    except RequestProblem as error:
        return _page(request, store, settings, caller, sae, text, problem=error.detail, status=error.status)
    return RedirectResponse(f"/try/{asked.id}", 303)


def _checked(text: str) -> str:
    if not text.strip():
        raise InputError("give some words to read")
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"the text has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are read at once: its beginning is kept below, "
            "send it in parts"
        )
    return text


@router.get("/try/{request_id}")
def read(request: Request, store: StoreOf, settings: SettingsOf, caller: Viewer, request_id: RequestId) -> Response:
    found = Activations(store).get(request_id)
    shown = _result(store, request.app.state.folders, found)
    sae, text = str(found.asked["sae"]), found.asked["text"]
    return _page(request, store, settings, caller, sae, text, found=found, **shown)


@router.get("/try/{request_id}/result")
def result(request: Request, store: StoreOf, _: Viewer, request_id: RequestId) -> Response:
    """Show the answer, the part of the page that reloads itself while it waits."""
    found = Activations(store).get(request_id)
    shown = _result(store, request.app.state.folders, found)
    return render(request, "try_result.html.j2", found=found, open=OPEN, **shown)


@router.get("/try/{request_id}/firings")
def firings(request: Request, store: StoreOf, _: Viewer, request_id: RequestId) -> Response:
    """Return the values for the page's script: the places and activations of each feature, and the labels."""
    found = Activations(store).get(request_id)
    answer = answer_in_characters(found.answer or {"tokens": [], "features": []})
    named = dict.fromkeys(feature for token in answer["tokens"] for feature, _ in token["top"])
    labels = batch_get(store, [(found.asked["sae"], feature) for feature in list(named)[:_LABELS]])
    known = {row["feature_index"]: row for row in labels if row is not None and row["label"]}
    features = answer["features"][:_FEATURES]
    maxima = _maxima(store, request.app.state.folders, found, answer)
    data = {
        "tokens": [token["top"] for token in answer["tokens"]],
        "features": {f["feature_index"]: [f["at"], f["activations"]] for f in features},
        "maxima": {f["feature_index"]: maxima[f["feature_index"]] for f in features},
        "labels": {feature: row["label"][:_LONGEST] for feature, row in known.items()},
        "sets": {feature: row["label_set_id"] for feature, row in known.items()},
    }
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS), headers=headers, media_type="application/json")


def _page(
    request: Request,
    store: Store,
    settings: Settings,
    caller: Caller,
    sae: str,
    text: str,
    *,
    found: ActivationRequest | None = None,
    problem: str | None = None,
    status: int = 200,
    **shown: Any,
) -> Response:
    return render(
        request,
        "try.html.j2",
        status,
        saes=catalogue.newest_saes(store, _SAES, ids_in(sae)),
        sae=sae,
        text=text[:MOST_CHARACTERS],
        most=MOST_CHARACTERS,
        found=found,
        problem=problem,
        has_queue=settings.redis is not None,
        open=OPEN,
        may_ask=caller.scope.includes(Scope.SUBMIT),
        **(_NOTHING | shown),
    )


def _result(store: Store, folders: Folders, found: ActivationRequest) -> dict[str, Any]:
    if found.state is not RequestState.DONE or found.answer is None:
        return _NOTHING
    answer = answer_in_characters(found.answer)
    maxima = _maxima(store, folders, found, answer)
    heats = _heats(answer, maxima)
    joined = joined_activations(store, found.asked["sae"], {**answer, "features": answer["features"][:_FEATURES]})
    tokens = _tokens(joined["tokens"], heats)
    return {"tokens": tokens, "features": joined["features"], "n_firing": joined["n_firing"], "maxima": maxima}


def _maxima(store: Store, folders: Folders, found: ActivationRequest, answer: dict[str, Any]) -> dict[int, float]:
    """Return the highest activation of each firing feature, in the corpus or, if higher or unknown there, in this text."""
    highest: dict[int, float] = {}
    for feature, value in _firings(answer):
        highest[feature] = max(value, highest.get(feature, 0.0))
    try:
        in_corpus = folders.folder(store.evidence(found.asked["evidence"])[1]).maxima
    except InputError:  # its folder is on another machine
        return highest
    return {
        feature: max(value, float(in_corpus[feature])) if feature < len(in_corpus) else value
        for feature, value in highest.items()
    }


def _firings(answer: dict[str, Any]) -> Iterator[tuple[int, float]]:
    """(feature, activation) of all that is known of an answer."""
    for token in answer["tokens"]:
        yield from token["top"]
    for f in answer["features"]:
        yield f["feature_index"], max(f["activations"], default=0.0)


def _heats(answer: dict[str, Any], maxima: dict[int, float]) -> list[int]:
    """Return a heat per token: 0 if nothing fires, else 1 to 10 by the feature nearest its maximum."""
    shares = [max((v / maxima[f] for f, v in token["top"]), default=0.0) for token in answer["tokens"]]
    for f in answer["features"]:
        for at, value in zip(f["at"], f["activations"], strict=True):
            shares[at] = max(shares[at], value / maxima[f["feature_index"]])
    return [max(1, min(10, math.ceil(10 * share))) if share > 0 else 0 for share in shares]


def _tokens(tokens: list[dict[str, Any]], heats: list[int]) -> list[ShownToken]:
    with_titles = len(tokens) <= _TITLES
    return [
        ShownToken(shown(token["token"]), heat, _title(token) if with_titles else "")
        for token, heat in zip(tokens, heats, strict=True)
    ]


def shown(token: str) -> str:
    """A token as text in which nothing is invisible."""
    return "".join(_SIGNS.get(c, c) for c in token) or "∅"


def _title(token: dict[str, Any]) -> str:
    strongest = ", ".join(f"{f['feature_index']}: {f['activation']:.3g}" for f in token["top"][:3])
    more = f" and {token['n_firing'] - 3} more" if token["n_firing"] > 3 else ""
    return f"features {strongest}{more}" if strongest else "nothing fires here"
