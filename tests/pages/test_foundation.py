"""What every page has: headers, static files, errors that help, and who may look."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.pages.access import inside
from labeler.store import Store
from labeler.store.people.keys import create_key
from labeler.terms import Scope
from tests.pages.conftest import HTML, SAME_ORIGIN


def test_a_page_says_what_may_run_in_it_and_has_no_script_or_style_of_its_own(http: TestClient) -> None:
    answer = http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", answer.text)


def test_static_files_are_kept_for_long_under_their_content(http: TestClient) -> None:
    address = re.search(r'href="(/static/style\.css\?v=\w+)"', http.get("/").text)
    assert address is not None
    kept = http.get(address[1])
    assert kept.headers["content-type"].startswith("text/css")
    assert "immutable" in kept.headers["cache-control"]
    assert http.get("/static/style.css?v=old").headers["cache-control"] == "no-cache"
    assert http.get("/static/..%2Frender.py").status_code == 404
    assert "Zero-Clause BSD" in http.get("/static/htmx.LICENSE.txt").text


def test_an_error_is_a_page_for_people_and_a_problem_for_programs(http: TestClient) -> None:
    page = http.get("/no-such-page")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert 'action="/search"' in page.text
    assert http.get("/no-such-page", headers={"Accept": "*/*"}).headers["content-type"] == "application/problem+json"
    assert http.get("/v1/sets/77").headers["content-type"] == "application/problem+json"


def test_an_error_of_ours_is_a_page_and_a_traceback_in_the_log(
    http: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("labeler.store.label_sets.catalogue.list_saes", broken)
    page = http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert "something went wrong here" in page.text
    assert page.headers["x-request-id"] in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert 'aria-label="Main"' in page.text, "it looks as all pages do"
    for said in ("hunter2", "RuntimeError", "Traceback"):
        assert said not in page.text
    assert "hunter2" in caplog.text
    assert "Traceback" in caplog.text
    assert http.get("/v1/saes").headers["content-type"] == "application/problem+json"
    assert http.get("/", headers={"Accept": "*/*"}).headers["content-type"] == "application/problem+json"


def test_with_a_key_in_the_database_nobody_looks_without_one(http: TestClient, store: Store) -> None:
    _, key = create_key(store, "me", Scope.READ)
    asked = http.get("/?cursor=x")
    assert asked.status_code == 401
    assert 'action="/sign-in"' in asked.text
    assert 'value="/?cursor=x"' in asked.text

    wrong = http.post("/sign-in", data={"key": "wrong", "next": "/"}, headers=SAME_ORIGIN)
    assert wrong.status_code == 401
    assert "not known" in wrong.text

    given = http.post("/sign-in", data={"key": key, "next": "/compare"}, headers=SAME_ORIGIN, follow_redirects=False)
    assert (given.status_code, given.headers["location"]) == (303, "/compare")
    cookie = given.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    assert http.get("/").status_code == 200
    assert http.get("/v1/saes").status_code == 200
    http.post("/sign-out", headers=SAME_ORIGIN)
    assert http.get("/").status_code == 401


def test_a_cookie_changes_nothing_by_the_rest_interface(http: TestClient, store: Store) -> None:
    """A page of another site could make a browser send it."""
    http.cookies.set("labeler_key", create_key(store, "me", Scope.ADMIN)[1])
    assert http.get("/v1/labels/1/0/reviews").status_code == 200
    assert http.post("/v1/labels/1/0/reviews", json={"verdict": "accept"}).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_of_another_page_is_not_taken(http: TestClient, headers: dict[str, str]) -> None:
    answer = http.post("/sign-in", data={"key": "k"}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "x", "/a\nb", ""])
def test_after_signing_in_one_stays_here(target: str) -> None:
    assert inside(target) == "/"
    assert inside("/saes/1?set=2") == "/saes/1?set=2"


def test_the_log_has_no_id_that_cannot_be_guessed(http: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    secret = "a1B2" * 8
    with caplog.at_level("INFO", "api.requests"):
        for path in (f"/try/{secret}", f"/v1/activations/{secret}", f"/no-such-page/{secret}"):
            assert http.get(path).status_code == 404
    routes = [vars(record)["route"] for record in caplog.records if record.message == "request"]
    assert routes == ["/try/{request_id}", "/v1/activations/{request_id}", "none"]
    assert all(secret not in str(vars(record)) for record in caplog.records if record.name.startswith("api"))


def test_home_shows_each_label_set_with_its_interval(http: TestClient) -> None:
    text = http.get("/").text
    assert text.count('<a href="/saes/1?set=') == 3
    assert re.search(r'<strong class="figure">0\.\d\d</strong>\s*<span class="soft figure">0\.\d\d to [01]\.\d\d', text)
    assert "1 silent" in text
    assert "price unknown" in text


def test_nothing_here_yet_is_a_page_that_helps(tmp_path: Path) -> None:
    from api.app import create_app
    from labeler.settings import Settings

    app = create_app(Settings(database=str(tmp_path / "labeler.db"), data=tmp_path))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000), headers=HTML) as client:
        assert "labeler gather" in client.get("/").text


def test_home_shows_the_jobs_that_are_under_way(http: TestClient, store: Store) -> None:
    from labeler.recipe import Recipe
    from labeler.store.jobs.jobs import Jobs

    assert "Jobs under way" not in http.get("/").text
    job = Jobs(store).submit(1, Recipe(seed=7), "0-9")
    part = http.get("/home/jobs", headers={"HX-Request": "true"}).text
    assert part.startswith('<div id="jobs-now" hx-get="/home/jobs" hx-trigger="every 2s"')
    assert f'<a href="/jobs/{job.id}">label {job.id}</a>' in part
    assert "0 of 10" in part
    assert "Jobs under way" in http.get("/").text
    Jobs(store).cancel(job.id, "enough")
    assert "Jobs under way" not in http.get("/").text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/saes/1?set=77", 404),
        ("/saes/1?set=x", 422),
        ("/saes/1?cursor=%F0%9F%99%82", 422),
        ("/saes/%D7%90", 422),
        ("/saes/1/features/99999", 404),
        ("/saes/1/features/x", 422),
        ("/saes/1/features/2?set=77", 404),
        ("/saes/1/features/2/prompts?set=77", 404),
        ("/sets/77/card", 404),
        ("/compare?a=1&b=77", 422),
        ("/compare?a=x", 422),
        ("/search?q=%2B%2B", 422),
        ("/search?q=x&sae=lost", 422),
        ("/search?q=x&cursor=zz", 422),
        ("/jobs?cursor=zz", 422),
        ("/jobs?state=lost", 422),
        ("/jobs/77", 404),
        ("/?cursor=zz", 422),
        ("/try/lost", 422),
        ("/jobs/new?evidence=lost", 200),
    ],
)
def test_odd_addresses_are_pages_that_say_why(http: TestClient, path: str, status: int) -> None:
    answer = http.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("text/html")
    assert "</html>" in answer.text
