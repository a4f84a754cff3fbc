"""Every route that reads, on the planted world: what was labelled is what is answered."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from labeler.export.card import build_card
from labeler.export.export import export_label_set
from labeler.imports.labels import import_labels
from labeler.schema import columns_of
from labeler.store import Store, open_store
from labeler.store.base.columns import scores_in
from tests.planted import N_FEATURES


def get(http: TestClient, url: str, status: int = 200, **rest: Any) -> Any:
    reply = http.get(url, **rest)
    assert reply.status_code == status, reply.text
    return reply.json()


def test_what_there_is(http: TestClient) -> None:
    sae = get(http, "/v1/saes")["items"][0]
    assert (sae["n_features"], sae["hookpoint"]) == (N_FEATURES, "gpt_neox.embed_in")
    assert get(http, f"/v1/saes/{sae['sha256'][:12]}") == get(http, "/v1/saes/1") == sae
    evidence = get(http, "/v1/evidence?sae=1")["items"][0]
    assert get(http, f"/v1/evidence/{evidence['hash']}")["manifest"]["hash"] == evidence["hash"]
    assert [s["explainer"] for s in get(http, "/v1/sets")["items"]] == ["lookup", "openai:m"]
    assert get(http, "/v1/sets/2")["summary"]["counts"] == {
        "pending": 21,
        "labeled": 9,
        "silent": 1,
        "rare": 0,
        "failed": 1,
    }
    assert get(http, "/v1/sets/1")["recipe"]["explainer"]["kind"] == "lookup"


def test_lists_are_paged(http: TestClient) -> None:
    for url, n in (("/v1/sets", 2), ("/v1/labels?set=1", N_FEATURES), ("/v1/search?q=letters", 8)):
        found, cursor = [], ""
        join = "&" if "?" in url else "?"
        while cursor is not None:
            page = get(http, f"{url}{join}limit=1" + (f"&cursor={cursor}" if cursor else ""))
            found += page["items"]
            cursor = page["next_cursor"]
        assert len({json.dumps(item) for item in found}) == len(found) == n
    assert (
        "another query" in get(http, f"/v1/labels?cursor={get(http, '/v1/sets?limit=1')['next_cursor']}", 422)["detail"]
    )


def test_labels_by_filter_and_order(http: TestClient) -> None:
    falling = get(http, "/v1/labels?set=2&sort=-score&score_min=0.3")["items"]
    assert [label["feature_index"] for label in falling] == [7, 6, 5, 4, 3]
    assert all(label["sae"] == 1 for label in falling)
    undefined = get(http, "/v1/labels/2/8")
    assert (undefined["score"], undefined["score_reason"]) == (None, "the simulation is constant")
    assert get(http, "/v1/labels?set=2&state=failed")["items"][0]["reason"] == "refused: no"
    assert get(http, "/v1/labels?recipe=nothing")["items"] == []
    assert get(http, "/v1/labels/2/31", 404)["title"] == "Not Found"


def test_a_look_up_of_pairs(http: TestClient) -> None:
    reply = http.post("/v1/labels:lookup", json={"pairs": [[1, 3], [1, 31], [1, 9], [5, 0]]})
    labels = reply.json()["labels"]
    assert [label and label["label_set_id"] for label in labels] == [2, 1, 1, None], (
        "a newer set without a label does not hide an older label"
    )
    best = http.post("/v1/labels:lookup", json={"pairs": [[1, 3]], "choose": "best"}).json()["labels"]
    assert best[0]["label_set_id"] == 1
    assert http.post("/v1/labels:lookup", json={"pairs": [[1, 3]] * 10_001}).status_code == 422


def test_search_ranks(http: TestClient) -> None:
    found = get(http, '/v1/search?q="such as" run -3')
    assert (len(found["items"]), found["n_hits"], found["complete"]) == (7, 7, True)
    ranks = [hit["rank"] for hit in found["items"]]
    assert ranks == sorted(ranks, reverse=True)
    assert get(http, "/v1/search?q=letters&set=1")["items"] == []


def test_a_feature_with_all_that_is_known(http: TestClient) -> None:
    feature = get(http, "/v1/features/1/0?set=1")
    assert feature["label_set_id"] == 1
    assert [(label["label_set_id"], label["explainer"]) for label in feature["labels"]] == [
        (2, "openai:m"),
        (1, "lookup"),
    ]
    assert feature["labels"][1]["scores"]["simulation"]["value"] > 0.99
    assert feature["contexts_reason"] is None
    # The planted feature 0 fires on Q, and on nothing else: so it is in what is shown and in what was held out.
    for context in feature["explain"] + feature["held_out"]:
        assert [a > 0 for a in context["activations"]] == [token == "Q" for token in context["tokens"]]
    assert {context["split"] for context in feature["explain"]} == {"explain"}
    assert {context["split"] for context in feature["held_out"]} == {"held_out"}
    assert len(feature["held_out"][0]["predicted"]) == len(feature["held_out"][0]["tokens"])
    logits = [token["logit"] for token in feature["promoted"] + feature["suppressed"][::-1]]
    assert logits == sorted(logits, reverse=True)
    assert len(feature["neighbours"]) == 10
    assert feature["statistics"]["density"] > 0
    pending = get(http, "/v1/features/1/31?set=2")
    assert pending["held_out"] == []
    assert get(http, f"/v1/features/1/{N_FEATURES}", 404)["detail"].startswith("feature 32 is out of range")
    assert get(http, "/v1/features/7/0", 404)


def test_a_feature_without_its_folder_still_answers(http: TestClient, store: Store) -> None:
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE evidence SET path = '/gone'")
    feature = get(http, "/v1/features/1/0")
    assert feature["explain"] == []
    assert feature["contexts_reason"] == "the evidence folder cannot be read on the machine that serves this"
    assert feature["statistics"]["n_tokens"] == 1000
    assert len(feature["labels"]) == 2


def test_an_imported_label_set_is_read_with_what_came_along(http: TestClient, store: Store, tmp_path: Path) -> None:
    """Its evidence is elsewhere."""
    with store.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM result WHERE label_set_id = 1 AND feature_index = 20")
    export_label_set(store, 1, "jsonl", tmp_path / "labels.jsonl", top_contexts=2)
    elsewhere = open_store(str(tmp_path / "elsewhere.db"))
    import_labels(elsewhere, tmp_path / "labels.jsonl")
    http.app.state.store = elsewhere  # type: ignore[attr-defined]
    feature = get(http, "/v1/features/1/0")
    assert feature["labels"][0]["label"] == "the token `Q`"
    assert "cannot be read" in feature["contexts_reason"]
    for context in feature["explain"]:
        assert (context["document"], context["split"], context["source"]) == (None, "explain", "top")
        assert [a > 0 for a in context["activations"]] == [token == "Q" for token in context["tokens"]]
    assert len(feature["explain"]) == 2
    unlabeled = get(http, "/v1/features/1/20")
    assert (unlabeled["labels"], unlabeled["contexts_reason"]) == ([], feature["contexts_reason"])
    assert get(http, "/v1/features/1/0?set=9", 404)
    elsewhere.close()


@pytest.mark.parametrize("limit", ["", "&limit=7"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_an_export_in_parts_is_the_whole(http: TestClient, store: Store, kind: str, limit: str) -> None:
    url: str | None = f"/v1/sets/1/export?format={kind}{limit}"
    parts = []
    while url:
        reply = http.get(url)
        assert reply.status_code == 200
        parts.append(read(kind, reply.content))
        link = reply.headers.get("link")
        url = link.partition(">")[0].lstrip("<") if link else None
    frame = pd.concat(parts, ignore_index=True)
    assert len(parts) == (5 if limit else 1)
    with store.database.reading() as connection:
        columns = columns_of(scores_in(connection, 1))
    assert list(frame.columns) == [column.name for column in columns]
    assert {"simulation_top", "auroc_token_low", "rsquared_n"} <= {*frame.columns}
    rows = list(store.rows(1))
    assert frame["feature_index"].tolist() == [row["feature_index"] for row in rows]
    for name in ("label", "score", "reason", "n_firings"):
        assert [None if pd.isna(v) else v for v in frame[name]] == [row[name] for row in rows], name
    if kind == "parquet":
        assert str(frame["created_at"].dtype) == "datetime64[us, UTC]"
    else:
        assert frame["created_at"].astype(str).str.endswith("+00:00").all()


def read(kind: str, content: bytes) -> pd.DataFrame:
    if kind == "parquet":
        return pd.read_parquet(io.BytesIO(content))
    if kind == "csv":
        return pd.read_csv(io.BytesIO(content))
    return pd.DataFrame([json.loads(line) for line in content.splitlines()])


def test_a_broken_download_goes_on(http: TestClient) -> None:
    whole = http.get("/v1/sets/1/export").content.splitlines()
    last = json.loads(whole[9])["feature_index"]
    assert http.get(f"/v1/sets/1/export?after={last}").content.splitlines() == whole[10:]


def test_the_card_travels(http: TestClient, store: Store) -> None:
    card = get(http, "/v1/sets/1/card")
    assert card == json.loads(json.dumps(build_card(store, 1)))
    assert http.get("/v1/sets/1/card?format=markdown").text.startswith("# Label set 1")
    inside = pq.read_schema(io.BytesIO(http.get("/v1/sets/1/export?format=parquet").content)).metadata[b"labeler.card"]
    assert json.loads(inside) == card


def test_two_sets_side_by_side(http: TestClient) -> None:
    compared = get(http, "/v1/compare?a=1&b=2&limit=3")
    assert compared["n_both"] == 11
    assert compared["n_higher_in_a"] > compared["n_higher_in_b"]
    assert len(compared["largest"]) == 3
    assert get(http, "/v1/compare?a=1&b=9", 404)


def test_a_person_s_label_is_another_label(http: TestClient) -> None:
    better = {"verdict": "corrected", "text": "the capital letter Q"}
    made = http.post("/v1/labels/1/0/reviews", json=better)
    assert made.status_code == 201
    assert made.json()["reviewed_label"] == "the token `Q`"
    assert get(http, "/v1/labels/1/0")["label"] == "the token `Q`"
    assert get(http, "/v1/labels/1/0/reviews")["items"] == [made.json()]
    assert get(http, "/v1/features/1/0")["reviews"][0]["text"] == "the capital letter Q"
    for body in (
        {"verdict": "corrected"},
        {"verdict": "accept", "text": "x"},
        {"verdict": "maybe"},
        {"verdict": "accept", "by": "me"},
    ):
        assert http.post("/v1/labels/1/0/reviews", json=body).status_code == 422
    assert http.post("/v1/labels/2/9/reviews", json={"verdict": "accept"}).status_code == 404


def test_a_review_is_withdrawn_and_stays_in_the_history(http: TestClient) -> None:
    made = http.post("/v1/labels/1/0/reviews", json={"verdict": "accept"}).json()
    assert get(http, "/v1/labels?set=1&reviewed=accepted")["items"]
    answer = http.delete(f"/v1/labels/1/0/reviews/{made['id']}")
    assert answer.status_code == 200
    assert (answer.json()["withdrawn_by"], answer.json()["withdrawn_at"] is None) == ("local", False)
    assert get(http, "/v1/labels/1/0/reviews")["items"] == [answer.json()]
    assert get(http, "/v1/labels?set=1&reviewed=accepted")["items"] == []
    assert http.delete("/v1/labels/1/0/reviews/77").status_code == 404
    assert http.post("/v1/labels/1/0/reviews", json={"verdict": "comment"}).status_code == 422
    assert http.post("/v1/labels/1/0/reviews", json={"verdict": "comment", "comment": "so"}).status_code == 201


@pytest.mark.parametrize("url", ["/v1/saes/1", "/v1/evidence/1", "/v1/features/1/0", "/v1/sets/1", "/v1/sets/1/card"])
def test_what_has_not_changed_is_not_sent_again(http: TestClient, url: str) -> None:
    tag = http.get(url).headers["etag"]
    again = http.get(url, headers={"If-None-Match": f'"other", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


def test_answers_are_compressed_where_that_helps(http: TestClient) -> None:
    for url, encoding in (("/v1/labels", "gzip"), ("/healthz", None), ("/v1/sets/1/export?format=parquet", None)):
        assert http.get(url, headers={"Accept-Encoding": "gzip"}).headers.get("content-encoding") == encoding
    with http.stream("GET", "/v1/sets/1/export", headers={"Accept-Encoding": "gzip"}) as reply:
        assert len(gzip.decompress(b"".join(reply.iter_raw())).splitlines()) == N_FEATURES


def test_the_service_watches_itself(http: TestClient) -> None:
    assert get(http, "/healthz") == {"status": "ok"}
    assert get(http, "/readyz")["database"] == "sqlite"
    http.get("/v1/labels/1/0")
    text = http.get("/metrics").text
    assert 'labeler_features{state="silent"} 2.0' in text
    assert 'route="/v1/labels/{set}/{index}",status="200"} 1.0' in text, "by route, and not by path"


def test_a_database_that_is_away_is_a_503_without_its_name(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler.errors import StorageError

    def away() -> None:
        raise StorageError("database postgresql://someone@host/name: connection refused")

    monkeypatch.setattr(http.app.state.store.database, "reading", away)  # type: ignore[attr-defined]
    reply = http.get("/readyz")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert "someone" not in reply.text
