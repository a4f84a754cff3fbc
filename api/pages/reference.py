"""The description of `/v1` for people to read: what each route takes and answers, from the OpenAPI document itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.pages.render import render

router = APIRouter()


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    summary: str
    description: str
    parameters: tuple[Mapping[str, str], ...]  # name, where, kind, description
    body: str | None  # an example
    answer: str | None

    @property
    def anchor(self) -> str:
        return f"{self.method}-{self.path}".lower().translate({ord(c): "-" for c in "/{}:"})


@router.get("/docs")
def reference(request: Request) -> Response:
    """Open to all, as the document is: it says nothing of what the database holds."""
    document = request.app.openapi()
    groups: dict[str, list[Operation]] = {}
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            operation = _operation(method.upper(), path, described, document)
            groups.setdefault((described.get("tags") or ["service"])[0], []).append(operation)
    return render(request, "reference.html.j2", groups=groups, about=document["info"]["description"])


def _operation(method: str, path: str, described: Mapping[str, Any], document: Mapping[str, Any]) -> Operation:
    body = described.get("requestBody", {}).get("content", {}).get("application/json", {})
    answers = [answer for status, answer in described["responses"].items() if status.startswith("2")]
    example = next((c["example"] for a in answers for c in a.get("content", {}).values() if "example" in c), None)
    return Operation(
        method,
        path,
        described.get("summary", ""),
        described.get("description", ""),
        tuple(_parameter(given) for given in described.get("parameters", ())),
        _shown(_example(body.get("schema", {}), document)) if body else None,
        _shown(example),
    )


def _parameter(given: Mapping[str, Any]) -> dict[str, str]:
    schema = given.get("schema", {})
    kinds = [s.get("type") or s.get("$ref", "").rpartition("/")[2] for s in schema.get("anyOf", [schema])]
    kind = " or ".join(k for k in kinds if k and k != "null")
    name = given["name"] + ("" if given["in"] != "header" else " (header)")
    return {"name": name, "kind": kind, "description": given.get("description") or schema.get("description", "")}


def _example(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    """Make an example of a body from the schema's own examples and defaults."""
    if "$ref" in schema:
        return _example(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    for given in ("examples", "default"):
        if given in schema:
            return schema[given][0] if given == "examples" else schema[given]
    if "properties" in schema:
        wanted = schema["properties"] if len(schema["properties"]) < 6 else schema.get("required", schema["properties"])
        return {name: _example(schema["properties"][name], document) for name in wanted}
    others = [s for s in schema.get("anyOf", ()) if s.get("type") != "null"]
    if others:
        return _example(others[0], document)
    if schema.get("type") == "array":
        return [_example(schema.get("items") or next(iter(schema.get("prefixItems", [{}]))), document)]
    return {"integer": 1, "number": 0.5, "boolean": True, "object": {}}.get(schema.get("type", ""), "...")


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
