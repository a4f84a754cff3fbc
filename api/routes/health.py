"""For those who watch the service: whether it lives, whether it can answer, and its figures."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.access import Reader
from api.parameters import StoreOf

router = APIRouter(tags=["service"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(store: StoreOf) -> dict[str, str]:
    """The database answers. Redis may be away: jobs are accepted, and begin when it is back."""
    with store.database.reading() as connection:
        connection.exec_driver_sql("SELECT 1")
    return {"status": "ok", "database": store.database.dialect}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request, _: Reader) -> Response:
    """For Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
