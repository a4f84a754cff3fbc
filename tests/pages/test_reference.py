"""The description of the API as a page: every route, nothing from elsewhere."""

from __future__ import annotations

import re

from fastapi.testclient import TestClient


def test_every_route_is_described(http: TestClient) -> None:
    page = http.get("/docs").text
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"<h3><code>{method.upper()} {path}</code></h3>" in page


def test_bodies_and_answers_are_shown_by_example(http: TestClient) -> None:
    page = http.get("/docs").text
    submit = page.partition("POST /v1/jobs</code></h3>")[2].partition("</section>")[0]
    assert "Body, an example" in submit
    assert "&#34;evidence&#34;: 1" in submit


def test_nothing_comes_from_another_machine(http: TestClient) -> None:
    assert re.findall(r'(?:src|href)="https?:', http.get("/docs").text) == []
