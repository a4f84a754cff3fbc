"""Jobs over HTTP: asked for, watched, changed. Who does the work is not tested here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.routes import jobs as routes
from api.seats import Seats
from labeler.recipe import Recipe
from labeler.store import Store
from labeler.store.jobs.blocks import Blocks
from labeler.store.jobs.jobs import Jobs
from labeler.terms import JobKind
from tests.results import failed


def submit(http: TestClient, status: int = 202, **body: Any) -> Any:
    reply = http.post("/v1/jobs", json={"evidence": 1, "features": "0-3", **body})
    assert reply.status_code == status, reply.text
    return reply.json()


def test_a_job_is_accepted_and_found(http: TestClient) -> None:
    reply = http.post(
        "/v1/jobs",
        json={
            "evidence": 1,
            "features": "density>0",
            "explainer": "openai:other",
            "priority": 2,
            "recipe": "standard",
            "budget": {"usd": 1.5},
        },
    )
    assert reply.status_code == 202
    job = http.get(reply.headers["location"]).json()
    assert (job["state"], job["priority"], job["budget_usd"]) == ("queued", 2, 1.5)
    assert job["recipe"]["explainer"]["model"] == "other"
    assert job["recipe"]["scorers"][0]["kind"] == "detection"
    assert job["progress"]["counts"]["pending"] == job["n_features"] > 20
    assert http.get("/v1/jobs").json()["items"][0]["id"] == job["id"]


def test_a_recipe_can_be_written_out(http: TestClient) -> None:
    recipe = {"model": "m", "explainer": {"method": "max-activation", "best_of": 3, "temperature": 1.0}, "seed": 7}
    made = submit(http, recipe=recipe)["recipe"]
    assert (made["explainer"]["best_of"], made["seed"], made["simulator"]["model"]) == (3, 7, "m")
    assert submit(http)["recipe"] == json.loads(json.dumps(Recipe().to_dict()))


def test_the_same_key_asks_for_the_same_job(http: TestClient) -> None:
    def ask(features: str) -> Any:
        return http.post("/v1/jobs", json={"evidence": 1, "features": features}, headers={"Idempotency-Key": "k"})

    assert ask("0-3").json()["id"] == ask("0-3").json()["id"]
    assert ask("0-4").status_code == 409
    assert len(http.get("/v1/jobs").json()["items"]) == 1


def test_a_job_is_paused_resumed_cancelled_and_retried(http: TestClient) -> None:
    job = submit(http)["id"]
    for word, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued")):
        reply = http.post(f"/v1/jobs/{job}/{word}")
        assert (reply.status_code, reply.json()["state"]) == (200, state)
    assert http.post(f"/v1/jobs/{job}/resume").status_code == 409
    assert http.post("/v1/jobs/99/pause").status_code == 404


def test_jobs_are_paged_and_filtered(http: TestClient) -> None:
    ids = [submit(http, features=str(i))["id"] for i in range(4)]
    http.post(f"/v1/jobs/{ids[1]}/cancel")
    first = http.get("/v1/jobs?limit=3").json()
    rest = http.get(f"/v1/jobs?limit=3&cursor={first['next_cursor']}").json()
    assert [job["id"] for job in first["items"] + rest["items"]] == ids[::-1]
    assert [job["id"] for job in http.get("/v1/jobs?state=cancelled").json()["items"]] == [ids[1]]


def test_progress_is_sent_as_events_until_the_end(http: TestClient, store: Store) -> None:
    job = submit(http)["id"]
    with http.stream("GET", f"/v1/jobs/{job}/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        states = []
        for line in reply.iter_lines():
            if line.startswith("data: "):
                states.append(json.loads(line.removeprefix("data: "))["state"])
                if len(states) == 1:
                    Jobs(store).cancel(job)
    assert states == ["queued", "cancelled"]
    assert http.get("/v1/jobs/99/events").status_code == 404


def test_so_many_may_watch_and_no_more(http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.app.state, "watchers", Seats("streams of events", 1, 1))  # type: ignore[attr-defined]
    monkeypatch.setattr(routes, "_EVENT_SECONDS", 0.01)
    url = f"/v1/jobs/{submit(http)['id']}/events"
    with http.stream("GET", url) as watched:
        lines = watched.iter_lines()
        assert next(lines) == "event: progress"
        refused = http.get(url)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        Jobs(store).cancel(1)
        assert '"cancelled"' in list(lines)[-2]
    assert http.get(url).status_code == 200, "the place is free again"


def test_failures_are_listed_with_their_reasons(http: TestClient, store: Store) -> None:
    job = submit(http, features="5-12", explainer="openai:m", simulator="openai:m", recipe={})["id"]
    blocks = Blocks(store)
    lease = blocks.claim(JobKind.LABEL, "w")
    assert lease is not None
    blocks.save(lease, [failed(10)])
    failures = http.get(f"/v1/jobs/{job}/failures").json()
    assert failures == {"items": [{"feature_index": 10, "reason": "refused: no"}], "next_cursor": None}


def test_a_gathering_pass_stays_in_the_data_folder(http: TestClient) -> None:
    asked = {
        "subject": "subjects/tiny",
        "sae": "saes/one",
        "corpus": "python-stdlib",
        "out": "evidence/one",
        "n_shards": 3,
    }
    reply = http.post("/v1/jobs:gather", json=asked)
    assert reply.status_code == 202
    data = http.app.state.settings.data.resolve()  # type: ignore[attr-defined]
    gather = reply.json()["gather"]
    # No folder of that name, but a name that the hub could know.
    assert gather["subject"] == "subjects/tiny"
    assert (gather["sae"], gather["out"]) == ("saes/one", "evidence/one")
    assert reply.json()["n_blocks"] == 5
    (data / "subjects/tiny").mkdir(parents=True)
    again = http.post("/v1/jobs:gather", json=asked).json()["gather"]
    assert again["subject"] == "subjects/tiny"
    assert "force" not in gather
    forced = http.post("/v1/jobs:gather", json=asked | {"out": "evidence/two", "force": True}).json()["gather"]
    assert forced["force"] is True
    stored = Jobs(http.app.state.store).get(2).gather  # type: ignore[attr-defined]
    assert stored is not None
    assert (stored["subject"], stored["out"]) == (str(data / "subjects/tiny"), str(data / "evidence/one"))


@pytest.mark.parametrize(
    "body",
    [
        {"evidence": 99},
        {"features": "40"},
        {"features": "@/etc/passwd"},
        {"features": "score<x"},
        {"priority": 10},
        {"budget": {"usd": 0}},
        {"budget": {"usd": -1}},
        {"recipe": "unknown"},
        {"recipe": "../standard"},
        {"recipe": {"explainer": {"template": "/etc/passwd"}, "model": "m"}},
        {"recipe": {"explainer": "lookup"}},
        {"recipe": {"seed": 10**400}},
        {"recipe": {"confidence": 10**400}},
        {"unknown": 1},
        {"explainer": "anthropic"},
    ],
)
def test_what_cannot_work_is_refused(http: TestClient, body: dict[str, Any]) -> None:
    reply = http.post(
        "/v1/jobs", content=json.dumps({"evidence": 1, **body}), headers={"Content-Type": "application/json"}
    )
    assert reply.status_code in (404, 422), reply.text
    assert http.get("/v1/jobs").json()["items"] == []


def test_evidence_gathered_elsewhere_is_made_known(http: TestClient, data: Path, planted_evidence: Path) -> None:
    shutil.copytree(planted_evidence, data / "brought")
    made = http.post("/v1/evidence", json={"path": "brought"})
    assert made.status_code == 201
    assert http.get(made.headers["Location"]).json()["hash"] == made.json()["hash"]
    assert http.post("/v1/evidence", json={"path": "brought"}).json()["id"] == made.json()["id"]
    assert http.post("/v1/jobs", json={"evidence": made.json()["id"], "features": "0"}).status_code == 202
    (data / "empty").mkdir()
    for path, status in (("empty", 404), ("nothing-there", 404)):
        refused = http.post("/v1/evidence", json={"path": path})
        assert refused.status_code == status
        assert "labeler gather" in refused.json()["detail"]
