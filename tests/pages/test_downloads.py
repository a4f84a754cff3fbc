"""Label sets taken away from the page, over real evidence."""

from __future__ import annotations

import json
import re

from fastapi.testclient import TestClient


def test_the_page_leads_to_each_format(http: TestClient) -> None:
    links = re.findall(r'href="(/v1/sets/2/export[^"]*)"', http.get("/saes/1?set=2").text)
    assert {link.rpartition("=")[2] for link in links} >= {"jsonl", "csv", "parquet"}
    for link in links:
        reply = http.get(link)
        assert reply.status_code == 200
        assert "attachment" in reply.headers["content-disposition"]


def test_contexts_come_along_where_they_are_asked_for(http: TestClient) -> None:
    def rows(query: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in http.get(f"/v1/sets/2/export?format=jsonl{query}").text.splitlines()]

    plain, with_contexts = rows(""), rows("&top_contexts=3")
    assert "top_contexts" not in plain[0]
    contexts = {row.pop("feature_index"): row.pop("top_contexts") for row in with_contexts}
    assert len(contexts) == len(plain)
    shown = contexts[2]
    assert isinstance(shown, list)
    assert len(shown) == 3
    peaks = [max(context["activations"]) for context in shown]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 0
    assert http.get("/v1/sets/2/export?top_contexts=51").status_code == 422
