"""The OpenAPI description, with an example of what each route answers: api/examples.json, from the world of the tests."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson
from fastapi import FastAPI

_TEXTS = {
    "GET /v1/jobs/{job}/events": {"text/event-stream": 'event: progress\ndata: {"id": 1, "state": "running"}\n\n'},
    "GET /v1/sets/{set}/export": {
        "application/jsonl": '{"feature_index": 0, "state": "labeled", "label": "the token `Q`", "score": 0.99}\n',
        "text/csv": "feature_index,state,label,score\n0,labeled,the token `Q`,0.99\n",
    },
}
_SAME = {"/v1/saes/{sae}/features/{index}": "/v1/features/{sae}/{index}"}


def describe(app: FastAPI) -> None:
    """Let the description of this application have the examples."""
    plain = app.openapi

    def with_examples() -> dict[str, Any]:
        if app.openapi_schema is None:
            _add_examples(plain())
        return plain()

    app.openapi = with_examples  # type: ignore[method-assign]


def _add_examples(description: dict[str, Any]) -> None:
    answers = orjson.loads((files("api") / "examples.json").read_bytes())
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            name = f"{method.upper()} {_SAME.get(path, path)}"
            examples = {"application/json": answers[name]} if name in answers else _TEXTS.get(name, {})
            answer = next(r for status, r in operation["responses"].items() if status.startswith("2"))
            for kind, example in examples.items():
                answer["content"][kind]["example"] = example
