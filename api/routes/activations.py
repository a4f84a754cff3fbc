"""Features that fire on a text. A gather worker reads it; the answer is joined with the labels here."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path, Response

from api.access import Reader, Submitter
from api.parameters import PROBLEMS, SettingsOf, StoreOf
from api.problems import RequestProblem
from labeler.errors import ConflictError
from labeler.rest_schema import Activations, ActivationsRequest
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.jobs.activations import MOST_WAITING, ActivationRequest, readable_evidence
from labeler.store.jobs.activations import Activations as Requests
from labeler.store.label_sets import catalogue
from labeler.terms import OPEN
from labeler.views import joined_activations
from workers.enqueue import announce_texts

router = APIRouter(tags=["activations"], responses=PROBLEMS)
RequestId = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{32}$", description="The id from `POST /v1/activations`.")]
_SOON = {"Retry-After": "1", "Cache-Control": "no-store"}


@router.post("/activations", status_code=202)
def ask(
    store: StoreOf,
    settings: SettingsOf,
    _: Submitter,
    asked: ActivationsRequest,
    response: Response,
    later: BackgroundTasks,
) -> Activations:
    """Ask which features fire on a text. Anyone with the id may read the answer, for an hour."""
    request = ask_about(store, settings, str(asked.sae), asked.text, later)
    response.headers["Location"] = f"/v1/activations/{request.id}"
    return answered(store, request)


@router.get("/activations/{request_id}")
def read(store: StoreOf, _: Reader, request_id: RequestId, response: Response) -> Activations:
    """Read the strongest features of each token, and every firing of the strongest features, with labels."""
    request = Requests(store).get(request_id)
    response.headers.update(_SOON if request.state in OPEN else {"Cache-Control": "private, no-cache"})
    return answered(store, request)


def ask_about(store: Store, settings: Settings, sae: str, text: str, later: BackgroundTasks) -> ActivationRequest:
    """Store a text for the workers. They are told after the answer, so a slow queue does not delay it.

    Raises NotFoundError for an unknown SAE, ConflictError or RequestProblem where no worker could answer.
    """
    if settings.redis is None:
        raise ConflictError(
            "this service has no queue (LABELER_REDIS is not set), so that no worker can be asked; `labeler up` brings both"
        )
    requests = Requests(store)
    requests.forget_old()
    if requests.n_open() >= MOST_WAITING:
        raise RequestProblem(429, f"{MOST_WAITING} texts wait already: ask again in a minute", {"Retry-After": "60"})
    request = requests.ask(readable_evidence(store, catalogue.find_sae(store, sae).id), text)
    later.add_task(announce_texts, store)
    return request


def answered(store: Store, request: ActivationRequest) -> Activations:
    found = {name: getattr(request, name) for name in ("id", "state", "reason", "created_at")}
    found |= {name: request.asked[name] for name in ("sae", "text")}
    if request.answer is not None:
        found |= joined_activations(store, request.asked["sae"], request.answer)
    return Activations.model_validate(found)
