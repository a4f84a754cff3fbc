"""Texts over HTTP: asked about, waited for, read with their labels. Who reads them is tested with the workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from api.app import create_app
from api.routes import activations as route
from labeler.client import Client, ServiceError
from labeler.errors import InputError
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.jobs.activations import Activations
from labeler.store.label_sets.catalogue import find_evidence
from tests.results import manifest

ANSWER = {
    "n_firing": 2,
    "tokens": [{"token": "Q", "n_firing": 2, "top": [[0, 5.0], [3, 0.5]]}, {"token": "<b>", "n_firing": 0, "top": []}],
    "features": [
        {"feature_index": 0, "at": [0], "activations": [5.0]},
        {"feature_index": 3, "at": [0], "activations": [0.5]},
    ],
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """Who was told that there are texts, in place of the queue."""
    told: list[Store] = []
    monkeypatch.setattr(route, "announce_texts", told.append)
    return told


@pytest.fixture
def queued(settings: Settings, told: list[Store]) -> Iterator[TestClient]:
    """The service with a queue."""
    app = create_app(replace(settings, redis="redis://127.0.0.1:1/0"))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client


def ask(http: TestClient, **body: Any) -> Any:
    return http.post("/v1/activations", json={"sae": 1, "text": "Q<b>"} | body)


def test_a_text_is_asked_about_and_read_with_its_labels(queued: TestClient, store: Store, told: list[Store]) -> None:
    reply = ask(queued)
    assert (reply.status_code, len(told)) == (202, 1)
    url = reply.headers["location"]
    waiting = queued.get(url)
    assert (waiting.json()["state"], waiting.json()["tokens"], waiting.headers["retry-after"]) == ("waiting", None, "1")
    Activations(store).claim()
    assert queued.get(url).json()["state"] == "running"
    Activations(store).finish(reply.json()["id"], ANSWER)
    done = queued.get(url).json()
    assert done["tokens"][0]["top"][1] == {"feature_index": 3, "activation": 0.5}
    assert done["features"][1]["label"]["label"] == "letters such as 3 and running"
    assert done["features"][1]["label"]["score_low"] is not None


@pytest.mark.parametrize(
    ("path", "form"),
    [("/v1/activations", {"json": {"sae": 1, "text": "Q"}}), ("/try", {"data": {"sae": "1", "text": "Q"}})],
)
def test_workers_are_told_after_the_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str, form: dict[str, Any]
) -> None:
    """A queue that does not answer holds up whoever tells it."""
    happened = []
    app = create_app(replace(settings, redis="redis://127.0.0.1:1/0"))

    async def listened(scope: Scope, receive: Receive, send: Send) -> None:
        async def tell(message: Message) -> None:
            await send(message)
            happened.append(message["type"])

        await app(scope, receive, tell)

    monkeypatch.setattr(route, "announce_texts", lambda store: happened.append("told"))
    with TestClient(listened, base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as http:
        happened.clear()
        http.post(path, headers={"Sec-Fetch-Site": "same-origin"}, follow_redirects=False, **form)
        assert happened == ["http.response.start", "http.response.body", "told"]


def test_ids_cannot_be_guessed(queued: TestClient) -> None:
    first, second = (ask(queued).json()["id"] for _ in range(2))
    assert len(first) == 32
    assert first[:8] != second[:8]
    assert queued.get("/v1/activations/" + "A" * 32).status_code == 404
    assert queued.get("/v1/activations/1").status_code == 422


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"text": ""}, 422, "at least 1 character"),
        ({"text": "a" * 1_000_000}, 422, "at most 20000 characters"),
        ({"text": "a" * (5 << 20)}, 413, "longer than"),
        ({"sae": 99}, 404, "GET /v1/saes"),
        ({"sae": "x"}, 422, "sae"),
        ({"text": "\x00"}, 422, "null character"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_what_cannot_work_is_refused(
    queued: TestClient, told: list[Store], body: dict[str, Any], status: int, says: str
) -> None:
    reply = ask(queued, **body)
    assert (reply.status_code, told) == (status, [])
    assert says in reply.json()["detail"]
    assert len(reply.text) < 2000, "the text is not sent back"


def test_without_a_queue_the_reason_comes_at_once(http: TestClient, store: Store) -> None:
    reply = ask(http)
    assert reply.status_code == 409
    assert "LABELER_REDIS is not set" in reply.json()["detail"]
    assert Activations(store).n_open() == 0


def test_what_others_have_gathered_has_no_subject_to_ask(queued: TestClient, store: Store) -> None:
    by_others = manifest(
        hash="0" * 16, by_others={"kind": "neuronpedia"}, subject={"id": "gpt2", "revision": "unknown"}
    )
    evidence = store.add_evidence(by_others, "elsewhere")
    sae = find_evidence(store, str(evidence)).sae_id
    refused = ask(queued, sae=sae)
    assert refused.status_code == 422
    assert "was not gathered here" in refused.json()["detail"]
    store.add_evidence({**by_others, "hash": "1" * 16}, "imported:labels.jsonl")
    assert ask(queued, sae=sae).status_code == 422
    assert ask(queued).status_code == 202


def test_too_many_texts_wait_for_nobody(queued: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "MOST_WAITING", 2)
    assert [ask(queued).status_code for _ in range(3)] == [202, 202, 429]


def test_the_client_waits_for_the_answer(
    queued: TestClient, store: Store, told: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the worker does is done where the worker is told."""
    client = Client("http://127.0.0.1", transport=queued._transport)  # type: ignore[arg-type]

    def work(_: Store) -> None:
        request = Activations(store).claim()
        assert request is not None
        if request.asked["text"] == "Q":
            Activations(store).finish(request.id, ANSWER)
        else:
            Activations(store).fail(request.id, "the subject is gone")

    monkeypatch.setattr(route, "announce_texts", work)
    assert [t.token for t in client.activations(1, "Q").tokens or ()] == ["Q", "<b>"]
    with pytest.raises(ServiceError, match="the subject is gone"):
        client.activations(1, "x")
    with pytest.raises(InputError, match="at most 20000"):
        client.activations(1, "x" * 20_001)
