"""Health of the service for its operators: alive, ready, and figures."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from api.access import Reader
from api.parameters import StoreOf

router = APIRouter(tags=["service"])


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Say that the process is alive."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(store: StoreOf) -> dict[str, str]:
    """Say whether the database answers. Without Redis, jobs are accepted and begin when it is back."""
    with store.database.reading() as connection:
        connection.exec_driver_sql("SELECT 1")
    return {"status": "ok", "database": store.database.dialect}


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request, _: Reader) -> Response:
    """Return the figures for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
