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
from labeler.store.people.reviews import add_review
from labeler.terms import Verdict
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
        ("score_max=-1", []),
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


@pytest.mark.parametrize("path", ["/saes/1?set=1", "/saes/1/features/2/prompts?set=2"])
def test_htmx_gets_a_part_alone_and_the_page_when_it_goes_back(http: TestClient, path: str) -> None:
    part = http.get(path, headers={"HX-Request": "true"})
    assert "<html" not in part.text
    back = http.get(path, headers={"HX-Request": "true", "HX-History-Restore-Request": "true", "Accept": "*/*"})
    assert back.text == http.get(path).text
    assert "<html" in back.text
    for answer in (part, back):  # a cache must not take one for the other
        assert {"HX-Request", "HX-History-Restore-Request"} <= {
            name.strip() for name in answer.headers["vary"].split(",")
        }
        assert "no-cache" in answer.headers["cache-control"]


def test_the_table_comes_with_its_form(http: TestClient) -> None:
    part = http.get("/saes/1?set=1&sort=-score&score_min=0.5", headers={"HX-Request": "true"}).text
    assert '<div id="listing">' in part
    assert '<input type="hidden" name="sort" value="-score">' in part, "a filter keeps the order"
    assert 'name="score_min" value="0.5"' in part


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        ("score_min=high", "score_min", "'high' is not a number"),
        ("score_max=7", "score_max", "7 lies outside −1 to 1"),
        ("score_min=0.9&score_max=0.1", "score_max", "below the lower limit, 0.9"),
        ("width_max=-1", "width_max", "lies outside 0 to 2"),
        ("density_max=nan", "density_max", "is not a number"),
        ("density_min=150%25", "density_min", "150% lies outside 0 to 1"),
        ("state=lost", "state", "is none of pending, labeled"),
        ("reviewed=<b>", "reviewed", "is none of yes, no"),
        ("text=%21%21", "text", "expected a word to look for"),
    ],
)
def test_a_filter_that_cannot_be_read_has_its_reason_at_its_field(
    http: TestClient, asked: str, field: str, said: str
) -> None:
    whole = http.get(f"/saes/1?set=1&{asked}")
    part = http.get(f"/saes/1?set=1&{asked}", headers={"HX-Request": "true"})
    assert (whole.status_code, part.status_code) == (422, 200), "htmx takes in no other answer"
    for text in (html.unescape(whole.text), html.unescape(part.text)):
        assert re.search(
            rf'<span class="problem" role="alert" id="{field}-problem">[^<]*(<b>)?[^<]*{re.escape(said)}', text
        )
        control = re.search(rf'<(?:input|select) id="filter-{field}"[^>]*', text)
        assert control is not None
        assert f'aria-invalid="true" aria-describedby="{field}-problem"' in control[0]
        assert features_of(text) == []
    for name, value in (pair.split("=") for pair in asked.split("&")):
        typed = html.escape(value.replace("%25", "%").replace("%21", "!"))
        assert f'value="{typed}"' in whole.text or f"<option selected>{typed}</option>" in whole.text, name


@pytest.mark.parametrize(("asked", "said"), [("sort=name", "is none of index"), ("cursor=zz", "damaged")])
def test_what_has_no_field_is_said_above_the_form(http: TestClient, asked: str, said: str) -> None:
    answer = http.get(f"/saes/1?set=1&{asked}")
    assert answer.status_code == 422
    assert re.search(rf'<p class="notice" role="alert">[^<]*{said}', html.unescape(answer.text))


def test_a_filter_that_is_not_known_is_not_silently_left_out(http: TestClient) -> None:
    answer = http.get("/saes/1?set=1&score=abc&index=x")
    assert answer.status_code == 200
    assert "left out: <code>score</code> (the nearest is <code>score_m" in answer.text
    assert "<code>index</code>" in answer.text
    assert features_of(answer.text)


def test_rare_is_one_thing_on_the_page(http: TestClient, store: Store) -> None:
    """The state, as the table filters by it; what the pass counts has another name."""
    text = http.get(f"/saes/1?set={LOOKUP}").text
    assert "<dt>Rare</dt>" not in text
    assert "<dt>In 1 to 19 windows</dt>" in text
    n = store.summary(LOOKUP).counts["rare"]
    assert f"{n} rare" in text
    assert len(features_of(http.get(f"/saes/1?set={LOOKUP}&state=rare").text)) == n


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
