"""A query parameter that a route does not have is refused, with the name of the nearest: no filter is silently dropped."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.testclient import TestClient

import api.pages
from labeler.client import Client, LabelFilters
from labeler.errors import InputError


def routes(http: TestClient) -> list[tuple[str, str]]:
    """Return the method and an address of each route, of REST and of the pages."""
    found = [(method, path) for path, ways in http.get("/openapi.json").json()["paths"].items() for method in ways]
    for page in sorted((Path(api.pages.__file__).parent).glob("*.py")):
        for route in getattr(import_module(f"api.pages.{page.stem}"), "router", APIRouter()).routes:
            found += [(method, route.path) for method in route.methods]
    return [(method, re.sub(r"\{[^}]*\}", "1", path)) for method, path in found]


def test_every_route_refuses_a_parameter_that_it_does_not_have(http: TestClient) -> None:
    asked = routes(http)
    assert len(asked) > 50
    kept = {"/saes/1"}  # this page says above its form what it left out
    for method, path in asked:
        reply = http.request(method, f"{path}?qwertz=1", headers={"Origin": "http://127.0.0.1"}, follow_redirects=False)
        if path in kept:
            assert "qwertz" in reply.text
            continue
        assert reply.status_code == 422, (method, path, reply.status_code)
        assert reply.json()["detail"].startswith("query.qwertz: there is no such parameter here"), path


@pytest.mark.parametrize(
    ("address", "near"),
    [
        ("/v1/labels?scoremin=0.99", "score_min"),
        ("/v1/labels?detecton_min=0.5", "detection_min"),
        ("/v1/labels?simulation_all_lowmin=0.5", "simulation_all_low_min"),
        ("/v1/sets?limt=5", "limit"),
        ("/v1/search?q=a&setid=5", "set"),
        ("/v1/sets/1/export?fromat=csv", "format"),
        ("/v1/labels?sort=-detecton", "-detection"),
        ("/jobs/new?feature=1", "features"),
    ],
)
def test_the_nearest_name_is_said(http: TestClient, address: str, near: str) -> None:
    refused = http.get(address)
    assert refused.status_code == 422
    assert refused.json()["detail"].endswith(f"the nearest is {near}")
    page = http.get(address, headers={"Accept": "text/html"})
    assert page.status_code == 422
    assert near in page.text


def test_a_number_that_is_none_is_refused(http: TestClient) -> None:
    for text in ("nan", "inf", "much", ""):
        refused = http.get("/v1/labels", params={"detection_min": text})
        assert refused.status_code == 422
        assert "query.detection_min: expected a finite number" in refused.json()["detail"]


def test_the_clients_filters_are_those_of_the_route(http: TestClient) -> None:
    described = http.get("/openapi.json").json()["paths"]["/v1/labels"]["get"]["parameters"]
    assert {p["name"] for p in described} - {"limit", "cursor"} == set(LabelFilters.__annotations__)
    with Client(transport=http._transport) as client:
        best = list(client.labels(set=1, score_min=0.5, sort="-score", scores={"simulation_all_min": 0.9}))
        assert best
        assert all(label.scores["simulation_all"].value >= 0.9 for label in best)  # type: ignore[operator]
        with pytest.raises(InputError, match="the nearest is score_min"):
            list(client.labels(scoremin=0.99))  # type: ignore[call-arg]
