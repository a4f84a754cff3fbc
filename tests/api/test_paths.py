"""No answer names a path of this machine: every route and page of a service, with what it refuses and what has failed."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.app import create_app
from api.paths import Paths
from labeler.evidence.store import EvidenceFolder
from labeler.recipe import Recipe
from labeler.settings import Settings
from labeler.store import JOBS, Store
from labeler.store.jobs.jobs import Jobs
from tests.api.test_access import ROUTES
from tests.results import labeled

PAGES = (
    "/",
    "/saes/1",
    "/jobs",
    "/jobs/1",
    "/jobs/new",
    "/try",
    "/search?q=letters",
    "/compare?a=1&b=2",
    "/sets/1/card",
    "/saes/1/features/0",
    "/docs",
    "/nothing",
    "/saes/99",
    "/evidence/../..",
)


@pytest.fixture
def asked(settings: Settings, data: Path, store: Store, planted_evidence: Path) -> Iterator[TestClient]:
    """A service over evidence in its data folder and elsewhere, and jobs that failed with what the system said."""
    folder = data / "evidence"
    shutil.copytree(planted_evidence, folder)
    store.label_set_for({**EvidenceFolder(folder).manifest, "hash": "in-the-data-folder"}, str(folder), Recipe(seed=3))
    store.save(3, [labeled(0)])
    job = Jobs(store).submit(1, Recipe(seed=9), "all").id
    reason = (
        f"{data}/evidence/arrays.npy: damaged; also {Path.home()}/.cache/x/y and {planted_evidence / 'a b'} ({data})"
    )
    with store.database.writing() as connection:
        connection.execute(update(JOBS).where(JOBS.c.id == job).values(state="failed", reason=reason))
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client


def test_no_answer_names_a_path_of_this_machine(
    asked: TestClient, data: Path, planted_evidence: Path, tmp_path: Path
) -> None:
    secret = [str(tmp_path), str(planted_evidence.parent), str(data), f"{Path.home()}/"]
    more = [
        ("POST", "/v1/evidence", {"path": "evidence/manifest.json"}),
        ("POST", "/v1/evidence", {"path": "labeler.db"}),
        ("POST", "/v1/jobs:gather", {"subject": "x/y/z", "sae": "s.pt", "corpus": "c.txt", "out": "labeler.db"}),
        ("POST", "/v1/jobs", {"evidence": 1, "features": "@/etc/passwd"}),
        *(
            ("GET", f"/v1/sets/{n}/{what}", None)
            for n in (1, 3)
            for what in ("card", "card?format=markdown", "export?limit=5")
        ),
        *(("GET", f"/v1/sets/3/export?format={kind}", None) for kind in ("csv", "parquet", "jsonl")),
        ("GET", "/v1/evidence/2", None),
    ]
    routes = [(method, url, body) for (method, _), (_, url, body) in ROUTES.items() if "events" not in url]
    n_seen = 0
    for method, url, body in (("GET", "/v1/jobs/1/events", None), *routes, *more):
        reply = asked.request(method, url, json=body)
        n_seen += reply.status_code == 200
        content = (
            reply.content if "parquet" not in url else repr(pq.read_table(io.BytesIO(reply.content)).schema).encode()
        )
        for text in secret:
            assert text.encode() not in content, (method, url, text, reply.status_code)
        assert not any(text in value for text in secret for value in reply.headers.values()), url
    assert n_seen > 30


def test_no_page_names_a_path_of_this_machine(asked: TestClient, data: Path, tmp_path: Path) -> None:
    for url in PAGES:
        reply = asked.get(url, headers={"Accept": "text/html"})
        for text in (str(tmp_path), f"{Path.home()}/"):
            assert text not in reply.text, (url, text)


def test_paths_are_shown_from_the_data_folder(asked: TestClient) -> None:
    gathered = asked.post(
        "/v1/jobs:gather", json={"subject": "models/m", "sae": "saes/a", "corpus": "c.txt", "out": "evidence/new"}
    ).json()["gather"]
    assert [gathered[name] for name in ("subject", "sae", "corpus", "out")] == [
        "models/m",
        "saes/a",
        "c.txt",
        "evidence/new",
    ]
    reason = asked.get("/v1/jobs/1").json()["reason"]
    assert reason.startswith("evidence/arrays.npy: damaged; also ~/.cache/x/y and ")


def test_labels_and_addresses_stay_as_they_are(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    same = [
        b'{"label":"/usr/bin/env","text":"/usr/lib/x"}',
        b'{"tokens":["/usr/bin/env","/tmp/x"],"token":"/usr/bin/x"}',
        b'{"detail":"GET /v1/sets lists them; see http://localhost:8000/v1/sets/1 or a/b/c"}',
        b'{"path":"saes/a"}',
    ]
    for body in same:
        assert paths.json(body) == body
    assert paths.json(b'{"path":"/srv/saes/layer-3/sae.safetensors"}') == b'{"path":"layer-3/sae.safetensors"}'
    assert paths.json(b'{"reason":"cannot read \\"/usr/lib/x/y\\": no"}') == b'{"reason":"cannot read \\"x/y\\": no"}'
    assert paths.value({"a": [f"{tmp_path}/b/c", "/x/y/z", 1, None, str(tmp_path)]}) == {
        "a": ["b/c", "y/z", 1, None, "."]
    }
