"""Neuronpedia's read API, so that tools written for it work against this service."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials

from api.access import Caller, access_of, bearer
from api.folders import Folders
from api.parameters import StoreOf, kept
from labeler.neuronpedia.mirror import NOT_FOUND, mirror_feature
from labeler.rest_schema import Text
from labeler.terms import Scope

router = APIRouter(prefix="/api", tags=["neuronpedia"])
_their_header = APIKeyHeader(
    name="X-Api-Key", auto_error=False, description="The key that Neuronpedia's own tools send."
)
Name = Annotated[Text, Path(max_length=160)]


def _reader(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    theirs: Annotated[str | None, Depends(_their_header)],
) -> Caller:
    if given is None and theirs is not None:
        given = HTTPAuthorizationCredentials(scheme="Bearer", credentials=theirs)
    return access_of(request).caller(request, given, Scope.READ)


@router.get(
    "/feature/{model}/{source}/{index}",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}}, 404: {"content": {"application/json": {}}}},
)
def read_feature(
    store: StoreOf,
    _: Annotated[Caller, Depends(_reader)],
    request: Request,
    model: Annotated[Name, Path(examples=["gpt2-small"])],
    source: Annotated[Name, Path(examples=["8-res-jb"])],
    index: Annotated[Name, Path(examples=["123"])],
) -> Response:
    """A feature with its activations and explanations, as Neuronpedia answers. Names are those of the Neuronpedia export."""
    folders: Folders = request.app.state.folders
    answer = mirror_feature(store, folders.folder, model, source, index)
    if answer is None:
        return JSONResponse({"error": NOT_FOUND}, status_code=404)
    return kept(request, answer)
