"""A scorer that only this test knows is stored, exported, filtered, sorted, summed up and shown like any other."""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from labeler import recipe as recipes
from labeler.evidence.store import EvidenceFolder
from labeler.export.card import build_card, card_markdown
from labeler.export.export import export_label_set
from labeler.imports.labels import import_labels
from labeler.label_sets.missing import label_missing
from labeler.recipe import Recipe, ScorerConfig
from labeler.records import Score
from labeler.score import score_label
from labeler.settings import Settings
from labeler.store import Store, open_store
from tests.planted import N_FEATURES

EMPTY = "a label of this length is not measured"


class Silent:
    """An LLM that no one asks."""


async def score_by_length(label, contexts, config, llm, lookups, measure):  # type: ignore[no-untyped-def]
    n = sum(map(ord, label.text)) % 97
    if n % 4 == 0:
        return (Score("length", None, EMPTY),)
    ends = {"low": n - 1.5, "high": n + 2.5, "null_z": 1.25, "null_p": 0.03, "null_n": 9, "baseline_token_lookup": 3.5}
    return (Score("length", float(n), n=len(contexts), **ends),)


@pytest.fixture(scope="module")
def made(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Store]]:
    """A database with one label set that has the scorer's scores."""
    path = tmp_path_factory.mktemp("added") / "labels.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.SCORERS, "length", "length-1")
        patch.setitem(score_label._TESTS, "length", score_by_length)
        store, folder = open_store(str(path)), EvidenceFolder(planted_evidence)
        recipe = Recipe(scorers=(ScorerConfig("length", "no model"),))
        info = store.label_set_for(folder.manifest, str(planted_evidence), recipe)
        asyncio.run(label_missing(folder, range(N_FEATURES), recipe, Silent(), store, info))  # type: ignore[arg-type]
        yield path, store
        store.close()


@pytest.fixture
def http(made: tuple[Path, Store]) -> Iterator[TestClient]:
    settings = Settings(database=str(made[0]))
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client


def expected(store: Store) -> dict[int, dict[str, Any]]:
    """What the scorer gave, by feature."""
    scores = {row["feature_index"]: [s for s in row["scores"] if s["name"] == "length"] for row in store.rows(1)}
    return {feature: found[0] for feature, found in scores.items() if found}


def test_it_has_values_and_reasons(made: tuple[Path, Store]) -> None:
    found = expected(made[1]).values()
    assert sum(score["value"] is not None for score in found) > 3
    assert any(score.get("reason") == EMPTY for score in found)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_exports_have_it_and_come_back_the_same_to_the_byte(
    made: tuple[Path, Store], tmp_path: Path, kind: str
) -> None:
    store, path = made[1], tmp_path / f"a.{kind}"
    export_label_set(store, 1, kind, path)
    if kind == "parquet":
        rows = pq.read_table(path).to_pylist()
        assert b"length" in pq.read_schema(path).field("length").metadata[b"description"]
    elif kind == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    parts = {
        "": "value",
        "_low": "low",
        "_high": "high",
        "_n": "n",
        "_null_z": "null_z",
        "_null_p": "null_p",
        "_baseline": "baseline_token_lookup",
    }
    scores = expected(store)
    for row in rows:
        score = scores.get(int(row["feature_index"]), {})
        for end, part in parts.items():
            value = row[f"length{end}"]
            assert (float(value) if value not in ("", None) else None) == score.get(part)
        assert (row["length_reason"] or None) == score.get("reason")
    assert "detection" not in rows[0], "a score that no result has, has no column"

    again = open_store(str(tmp_path / "again.db"))
    done = import_labels(again, path)
    assert done.columns_left_out == []
    export_label_set(again, done.label_set, kind, tmp_path / f"b.{kind}")
    if kind == "parquet":  # its card says that it was imported
        assert pq.read_table(tmp_path / "b.parquet").equals(pq.read_table(path))
    else:
        assert (tmp_path / f"b.{kind}").read_bytes() == path.read_bytes()
    again.close()


def test_rest_filters_and_sorts_by_it(http: TestClient, made: tuple[Path, Store]) -> None:
    scores = expected(made[1])
    values = {feature: s["value"] for feature, s in scores.items() if s["value"] is not None}
    middle = sorted(values.values())[len(values) // 2]
    found = http.get(f"/v1/labels?set=1&length_min={middle}&sort=-length&limit=500").json()["items"]
    order = sorted((v, f) for f, v in values.items() if v >= middle)[::-1]
    assert [row["feature_index"] for row in found] == [f for _, f in order]
    assert [row["scores"]["length"]["value"] for row in found] == [v for v, _ in order]
    assert found[0]["scores"]["length"]["null_p"] == 0.03

    def ask(query: str) -> list[int]:
        return [
            row["feature_index"] for row in http.get(f"/v1/labels?set=1&{query}").raise_for_status().json()["items"]
        ]

    assert ask(f"length_high_max={middle}") == sorted(f for f, v in values.items() if v + 2.5 <= middle)
    assert ask("length_width_max=4") == sorted(values)
    assert ask("length_width_max=3.9") == []
    assert ask("length_null_p_max=0.02") == []
    one = http.post("/v1/labels:lookup", json={"pairs": [[1, order[0][1]]], "scores": True}).json()["labels"][0]
    assert one["scores"]["length"]["value"] == order[0][0]
    refused = http.get("/v1/labels?set=1&lenght_min=3")
    assert refused.status_code == 422
    assert "length_min" in refused.json()["detail"]


def test_pages_of_it_follow_on_one_another(http: TestClient, made: tuple[Path, Store]) -> None:
    values = {f: s["value"] for f, s in expected(made[1]).items() if s["value"] is not None}
    for sign in ("", "-"):
        found, cursor = [], ""
        while cursor is not None:
            page = http.get(
                f"/v1/labels?set=1&sort={sign}length&limit=2" + (f"&cursor={cursor}" if cursor else "")
            ).json()
            found += [row["feature_index"] for row in page["items"]]
            cursor = page["next_cursor"]
        assert found == [f for _, f in sorted((v, f) for f, v in values.items())][:: -1 if sign else 1]


def test_summary_and_card_have_it(http: TestClient, made: tuple[Path, Store]) -> None:
    store = made[1]
    values = sorted(s["value"] for s in expected(store).values() if s["value"] is not None)
    median = http.get("/v1/sets/1").json()["summary"]["medians"]["length"]
    n = len(values)
    assert (median["value"], median["n"]) == ((values[(n - 1) // 2] + values[n // 2]) / 2, n)
    card = build_card(store, 1)
    assert card["scores"]["length"]["column"] == "length"
    assert "Median length" in card_markdown(card)
    assert store.named_scores(1, "length")[1] == {EMPTY: len(expected(store)) - n}


def test_the_page_shows_it(http: TestClient, made: tuple[Path, Store]) -> None:
    html = {"Accept": "text/html"}
    values = {f: s["value"] for f, s in expected(made[1]).items() if s["value"] is not None}
    highest = max(values.values())
    page = http.get(f"/saes/1?set=1&sort=-length&length_min={highest}", headers=html)
    assert page.status_code == 200
    assert '<option value="length" selected>' in page.text
    assert f"<strong>{highest:.2f}</strong>" in page.text
    assert page.text.count('<td class="figure"><a') == sum(v == highest for v in values.values())
    assert "Median length" in http.get("/sets/1/card", headers=html).text
    feature = max(values, key=values.__getitem__)
    assert "length" in http.get(f"/saes/1/features/{feature}?set=1", headers=html).text
