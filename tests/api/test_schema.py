"""The description of the service, and requests made from it at random: none gets a server error."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import jsonschema
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings

from labeler.store.people.keys import create_key
from labeler.terms import Scope
from tests.waiting import HANGS

MANY = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_request_gets_a_server_error(http: TestClient) -> None:
    key = create_key(http.app.state.store, "anyone", Scope.ADMIN, "1000000/minute")[1]  # type: ignore[attr-defined]
    headers = {"Authorization": f"Bearer {key}", "Host": "localhost"}
    schema = schemathesis.openapi.from_dict(http.get("/openapi.json").json())
    schema.app = http.app
    statuses: Counter[int] = Counter()
    for operation in schema.get_all_operations():
        described = operation.ok()
        if described.path.endswith("/events"):
            continue  # it ends when the job does

        @MANY
        @given(case=described.as_strategy())
        def check(case: Any) -> None:
            reply = case.call(headers=headers)
            statuses[reply.status_code] += 1
            assert reply.status_code < 500, (case.as_curl_command(), reply.text)

        check()
    assert statuses[200] > 20, "most requests that follow the description are answered"
    assert statuses[401] == statuses[403] == 0


def test_the_description_has_examples_and_problems(http: TestClient) -> None:
    described = http.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation.get("description") or operation.get("summary"), path
            if path.startswith("/v1"):
                assert "application/problem+json" in operation["responses"]["422"]["content"], path
                assert operation["security"], path
    assert described["components"]["schemas"]["LookupRequest"]["properties"]["pairs"]["examples"]


def test_every_route_has_an_example_that_is_an_answer(http: TestClient) -> None:
    described = http.get("/openapi.json").json()
    for path, methods in described["paths"].items():
        if not path.startswith("/v1"):
            continue
        for method, operation in methods.items():
            answer = next(r for status, r in operation["responses"].items() if status.startswith("2"))
            examples = {kind: c["example"] for kind, c in answer["content"].items() if "example" in c}
            assert examples, (method, path)
            if schema := answer["content"].get("application/json", {}).get("schema"):
                jsonschema.validate(examples["application/json"], {**described, **schema})
                kind = described["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
                assert (
                    examples["application/json"].keys() == kind.get("properties", examples["application/json"]).keys()
                ), path


def test_the_service_starts_without_torch() -> None:
    code = (
        "import sys, api.app\nheavy = {'torch', 'transformers', 'openai'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANGS)
