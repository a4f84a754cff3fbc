"""SAEs, and the evidence that was gathered of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from api.access import Reader, Submitter
from api.parameters import (
    PROBLEMS,
    Cursor,
    Limit,
    SaeQuery,
    SaeReference,
    SettingsOf,
    StoreOf,
    after_id,
    kept,
    page_by_id,
)
from api.requests import below
from labeler.evidence.store import EvidenceFolder
from labeler.names import with_names
from labeler.rest_schema import Evidence, EvidenceDetail, EvidenceRequest, Page, Sae, Text
from labeler.store.label_sets import catalogue

router = APIRouter(tags=["saes"], responses=PROBLEMS)


@router.get("/saes")
def list_saes(store: StoreOf, _: Reader, limit: Limit = 50, cursor: Cursor = None) -> Page[Sae]:
    """The SAEs of which there is evidence."""
    return page_by_id("saes", catalogue.list_saes(store, after_id("saes", cursor), limit + 1), limit, Sae)


@router.get("/saes/{sae}", response_model=Sae)
def read_sae(store: StoreOf, _: Reader, request: Request, sae: SaeReference) -> Response:
    return kept(request, Sae.model_validate(catalogue.find_sae(store, sae)))


@router.get("/evidence")
def list_evidence(
    store: StoreOf, _: Reader, limit: Limit = 50, cursor: Cursor = None, sae: SaeQuery = None
) -> Page[Evidence]:
    """List the evidence, one entry per gathering pass."""
    sae_id = None if sae is None else catalogue.find_sae(store, sae).id
    name = f"evidence of {sae_id}"
    return page_by_id(name, catalogue.list_evidence(store, sae_id, after_id(name, cursor), limit + 1), limit, Evidence)


@router.post("/evidence", status_code=201)
def add_evidence(
    store: StoreOf, settings: SettingsOf, _: Submitter, asked: EvidenceRequest, response: Response
) -> Evidence:
    """Register an evidence folder gathered elsewhere. The same folder gives the same evidence again."""
    path = below(asked.path, settings.data, "path")
    found = catalogue.find_evidence(store, str(store.add_evidence(EvidenceFolder(path).manifest, str(path))))
    response.headers["Location"] = f"/v1/evidence/{found.id}"
    return Evidence.model_validate(found)


@router.get("/evidence/{evidence}", response_model=EvidenceDetail)
def read_evidence(
    store: StoreOf,
    _: Reader,
    request: Request,
    evidence: Annotated[Text, Path(max_length=64, description="Its id or hash.")],
) -> Response:
    found = catalogue.find_evidence(store, evidence)
    manifest = request.app.state.paths.value(store.evidence(found.id)[0])
    return kept(
        request,
        EvidenceDetail(
            id=found.id,
            hash=found.hash,
            sae_id=found.sae_id,
            created_at=found.created_at,
            manifest=with_names(manifest),
        ),
    )
