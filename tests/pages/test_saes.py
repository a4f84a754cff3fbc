"""The page of an SAE: its table, its scatter, and what it says where something is missing."""

from __future__ import annotations

import html
import re
from itertools import accumulate

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.pages.scatter import _binned, _decades, drawing
from labeler.store import Store
from labeler.store.reviews import Verdict, add_review
from tests.pages.conftest import HOSTILE_TEXTS

LOOKUP, LETTERS, HOSTILE = 1, 2, 3


def features_of(text: str) -> list[int]:
    return [int(n) for n in re.findall(r'<td class="figure"><a href="/saes/1/features/(\d+)\?set=', text)]


def test_the_page_says_how_good_the_sae_is_and_what_its_labels_are_worth(http: TestClient) -> None:
    text = http.get("/saes/1?set=1").text
    for said in (
        "<dt>L0</dt>",
        "<dt>Explained variance</dt>",
        "<dt>Dead</dt>",
        "Histogram by density",
        "Histogram by score",
    ):
        assert said in text
    assert re.search(r"<strong>1\.00</strong> <span class=\"soft\">\d\.\d\d to 1\.00</span>", text)
    assert "never fired on" in text
    assert len(text.encode()) < 300_000


def test_the_label_set_with_the_most_labels_is_shown_and_any_other_on_request(http: TestClient) -> None:
    assert '<option value="1" selected>' in http.get("/saes/1").text
    assert '<option value="3" selected>' in http.get("/saes/1?set=3").text
    assert '<option value="1" selected>' in http.get("/saes/1?set=1").text
    assert http.get("/sets/2", follow_redirects=False).headers["location"] == "/saes/1?set=2"
    missing = http.get("/saes/1?set=77")
    assert missing.status_code == 404
    assert "it has 3, 2, 1" in missing.text


def test_of_more_label_sets_than_can_be_listed_the_newest_and_the_asked_for_are(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.pages.saes._SETS", 1)
    monkeypatch.setattr("api.pages.compare._SETS", 2)
    assert '<option value="1" selected>' in http.get("/saes/1").text, "the one that speaks is among them"
    assert '<option value="3" selected>' in http.get("/saes/1?set=3").text
    assert "label set 3" in http.get("/saes/1/features/2?set=3").text
    assert "label set 2" in http.get("/saes/1/features/11").text, "the one that speaks for it"
    assert http.get("/saes/1?set=77").status_code == 404
    chosen = re.findall(r'<option value="(\d)" selected>', http.get("/compare?a=3&b=1").text)
    assert chosen == ["3", "1"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("state=silent", [5]),
        ("state=rare", [4]),
        ("text=Q", [0, 24]),  # and feature 24 fires on `q`
        ("density_min=10%25", [3]),
        ("score_min=2", []),
        ("width_max=-1", []),
    ],
)
def test_the_table_is_filtered(http: TestClient, asked: str, expected: list[int]) -> None:
    assert features_of(http.get(f"/saes/1?set={LOOKUP}&{asked}").text) == expected


def test_the_table_is_filtered_by_the_width_of_the_interval(http: TestClient, store: Store) -> None:
    widths = {
        r["feature_index"]: r["score_high"] - r["score_low"] for r in store.rows(LETTERS) if r["score"] is not None
    }
    most = sorted(widths.values())[len(widths) // 2]
    narrow = [feature for feature, width in widths.items() if width <= most]
    assert 0 < len(narrow) < len(widths)
    assert features_of(http.get(f"/saes/1?set={LETTERS}&width_max={most!r}").text) == narrow


def test_the_table_is_filtered_by_what_people_said(http: TestClient, store: Store) -> None:
    add_review(store, LOOKUP, 7, Verdict.ACCEPT, "ann")
    add_review(store, LOOKUP, 9, Verdict.REJECT, "ann")
    assert features_of(http.get(f"/saes/1?set={LOOKUP}&reviewed=yes").text) == [7, 9]
    assert features_of(http.get(f"/saes/1?set={LOOKUP}&reviewed=rejected").text) == [9]
    assert 7 not in features_of(http.get(f"/saes/1?set={LOOKUP}&reviewed=no").text)


def test_the_table_is_sorted_and_its_pages_hold_every_feature_once(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.pages.saes._ROWS", 7)
    address, found = f"/saes/1?set={LOOKUP}&sort=-score", []
    while address:
        text = http.get(address).text
        found += features_of(text)
        link = re.search(r'<a class="button" href="([^"]+)" [^>]*data-key="next"', text)
        address = html.unescape(link[1]) if link else ""
    scores = {r["feature_index"]: r["score"] for r in store.rows(LOOKUP) if r["score"] is not None}
    assert sorted(found) == sorted(scores)
    assert [scores[f] for f in found] == sorted(scores.values(), reverse=True)
    assert 'aria-sort="descending"' in http.get(f"/saes/1?set={LOOKUP}&sort=-score").text


def test_htmx_gets_the_table_alone(http: TestClient) -> None:
    part = http.get("/saes/1?set=1", headers={"HX-Request": "true"})
    assert part.text.startswith('<div id="features">')
    assert "<html" not in part.text
    for answer in (part, http.get("/saes/1?set=1")):
        assert "HX-Request" in answer.headers["vary"], "a cache must not take one for the other"


@pytest.mark.parametrize(
    ("asked", "said"),
    [("score_min=high", "is not a number"), ("state=lost", "choose pending, labeled"), ("sort=name", "choose index"),
     ("cursor=zz", "damaged"), ("density_max=nan", "is not a number")],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(http: TestClient, asked: str, said: str) -> None:
    answer = http.get(f"/saes/1?set=1&{asked}")
    assert answer.status_code == 422
    assert said in html.unescape(answer.text)


def test_texts_of_models_are_text(http: TestClient) -> None:
    text = http.get(f"/saes/1?set={HOSTILE}").text
    for hostile in HOSTILE_TEXTS:
        assert "<" not in hostile or hostile not in text
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text


def test_random_is_a_feature_with_a_label(http: TestClient) -> None:
    for _ in range(5):
        place = http.get("/saes/1/random?set=3", follow_redirects=False).headers["location"]
        assert re.fullmatch(r"/saes/1/features/[0-6]\?set=3", place) or place == "/saes/1/features/8?set=3"


def test_the_scatter_has_every_feature_with_a_score(http: TestClient, store: Store) -> None:
    drawn = http.get(f"/sets/{LOOKUP}/scatter").json()
    rows = [r for r in store.rows(LOOKUP) if r["score"] is not None]
    assert list(accumulate(drawn["feature"])) == [r["feature_index"] for r in rows]
    assert drawn["score"] == pytest.approx([1000 * r["score"] for r in rows], abs=0.51)
    assert [10 ** (d / 100) for d in drawn["density"]] == pytest.approx([r["density"] for r in rows], rel=0.013)
    assert sum(line["n"] for line in drawn["decades"]) == len(rows) == drawn["n"]


def test_a_set_without_scores_says_why_nothing_is_drawn(store: Store) -> None:
    from labeler.evidence.store import EvidenceFolder
    from labeler.recipe import Recipe

    folder = EvidenceFolder(store.label_set(LOOKUP).evidence_path)
    empty = store.label_set_for(folder.manifest, str(folder.folder), Recipe(seed=5))
    assert "no feature" in drawing(store, empty.id)["reason"]


def test_many_points_are_counted_in_bins() -> None:
    rng = np.random.default_rng(0)
    logs, scores = rng.uniform(-5, -1, 50_000), rng.uniform(-0.9, 1, 50_000)
    drawn = _binned(logs, scores)
    assert sum(n for _, _, n in drawn["bins"]) == 50_000
    assert drawn["score_range"] == (-1.0, 1.0)
    column, row, n = max(drawn["bins"], key=lambda b: b[2])
    (x0, x1), (columns, rows) = drawn["density_range"], drawn["grid"]
    in_x = (logs >= x0 + (x1 - x0) * column / columns) & (logs < x0 + (x1 - x0) * (column + 1) / columns)
    in_y = (scores >= -1 + 2 * row / rows) & (scores < -1 + 2 * (row + 1) / rows)
    assert (in_x & in_y).sum() == n
    first = _decades(logs, scores)[0]
    assert first["median"] == pytest.approx(np.median(scores[logs < -4]), abs=1e-3)
