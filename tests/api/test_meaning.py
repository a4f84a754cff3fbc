"""Search by meaning, from `labeler embed` to the answer of the service, with an embeddings endpoint over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from labeler.recipe import Recipe
from labeler.settings import Settings
from labeler.store import Store
from tests import stub_server as stub
from tests.results import labeled, manifest
from tests.stub_server import StubServer

# The stub's model places a text by how often it has each of the letters a to h.
TEXTS = ("a bad cab", "feed the hedge", "aaa", "fff", "dab a cab")


@pytest.fixture
def set_id(store: Store) -> int:
    label_set = store.label_set_for(manifest(hash="f" * 16), "/nowhere", Recipe.from_names("openai:meant")).id
    store.save(label_set, [labeled(i, 0.5, text) for i, text in enumerate(TEXTS)])
    return label_set


@pytest.fixture
def http(settings: Settings, stub_server: StubServer) -> Iterator[TestClient]:
    meant = replace(settings, embeddings_model="places", embeddings_url=stub_server.base_url)
    with TestClient(create_app(meant), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client


def embed(run: Any, settings: Settings, server: StubServer, *words: object) -> Any:
    return run("embed", *words, "--model", "places", "--base-url", server.base_url, "--db", settings.database)


def test_labels_are_found_by_what_they_mean(
    run: Any, http: TestClient, settings: Settings, set_id: int, stub_server: StubServer
) -> None:
    planned = embed(run, settings, stub_server, set_id, "--plan")
    assert planned.out.startswith("5 texts for places: 1 requests, about ")
    assert "cost unknown" in planned.out
    assert stub_server.requests == []
    done = embed(run, settings, stub_server, set_id)
    assert (done.code, done.out.splitlines()[-1][:17]) == (0, "5 texts embedded."), done.err
    found = http.get(f"/v1/search?q=abba&by=meaning&set={set_id}&limit=2").json()
    assert [hit["label"] for hit in found["items"]] == ["a bad cab", "dab a cab"], "as near as each other"
    assert (found["n_hits"], found["complete"]) == (5, True)
    # abba: 2 a, 2 b; a bad cab: 3 a, 2 b, c, d
    assert found["items"][0]["rank"] == pytest.approx(10 / (8 * 15) ** 0.5, abs=0.005)
    n_asked = len(stub_server.requests)
    rest = http.get(f"/v1/search?q=abba&by=meaning&set={set_id}&limit=5&cursor={found['next_cursor']}").json()
    assert {hit["label"] for hit in rest["items"]} == set(TEXTS) - {"dab a cab", "a bad cab"}
    assert len(stub_server.requests) == n_asked, "the next page asks nobody"
    everywhere = http.get("/v1/search?q=abba&by=meaning").json()
    assert not everywhere["complete"], "the other label sets have no embeddings"


def test_all_sets_are_embedded_where_none_is_named(
    run: Any, http: TestClient, settings: Settings, set_id: int, stub_server: StubServer
) -> None:
    done = embed(run, settings, stub_server, "--json")
    told = json.loads(done.out)
    assert told["label_sets"] == [1, 2, set_id]
    assert told["plan"]["texts"] >= told["embedded"] > len(TEXTS)
    assert json.loads(embed(run, settings, stub_server, "--json").out)["embedded"] == 0
    assert http.get("/v1/search?q=letters&by=meaning").json()["complete"]


def test_mistakes_of_the_command(run: Any, settings: Settings, set_id: int, stub_server: StubServer) -> None:
    done = run("embed", "--db", settings.database)
    assert (done.code, "--model: which embeddings model?" in done.err) == (2, True)
    done = embed(run, settings, stub_server, 99)
    assert (done.code, "label set 99" in done.err) == (2, True)
    done = embed(run, settings, stub_server, "--budget-usd", 1)
    assert (done.code, "the price of places is not known" in done.err) == (2, True)
    done = embed(run, settings, stub_server, "--budget-tokens", 2)
    assert (done.code, "budget" in done.err) == (5, True)
    assert stub_server.requests == []


def test_a_service_without_embeddings_says_so(settings: Settings) -> None:
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as http:
        answer = http.get("/v1/search?q=abba&by=meaning")
        page = http.get("/search?q=abba&by=meaning", headers={"Accept": "text/html"})
        assert answer.status_code == 409
        assert "LABELER_EMBEDDINGS_MODEL is not set" in answer.json()["detail"]
        assert (page.status_code, "LABELER_EMBEDDINGS_MODEL is not set" in page.text) == (409, True)
        assert "by meaning" not in http.get("/search?q=abba", headers={"Accept": "text/html"}).text


def test_an_endpoint_that_fails_is_a_clear_answer(http: TestClient, set_id: int, stub_server: StubServer) -> None:
    stub_server.behave = lambda number, body: stub.SERVER_ERROR
    answer = http.get("/v1/search?q=abba&by=meaning")
    assert (answer.status_code, "500" in answer.json()["detail"]) == (502, True)
    page = http.get("/search?q=abba&by=meaning", headers={"Accept": "text/html"})
    assert (page.status_code, 'role="alert"' in page.text) == (502, True)
    assert http.get("/v1/search?q=letters").json()["n_hits"] == 8, "words are found all the same"


def test_the_page_finds_by_meaning(
    run: Any, http: TestClient, settings: Settings, set_id: int, stub_server: StubServer
) -> None:
    html = {"Accept": "text/html"}
    assert "Some labels have no embedding yet" in http.get("/search?q=abba&by=meaning", headers=html).text
    assert embed(run, settings, stub_server).code == 0
    text = http.get(f"/search?q=abba&by=meaning&set={set_id}", headers=html).text
    assert '<option value="meaning" selected>' in text
    assert "The nearest" in text
    assert text.index("a bad cab") < text.index("feed the hedge")
    assert '<th scope="col" class="right">Cosine</th>' in text
    assert "<mark>" not in text
