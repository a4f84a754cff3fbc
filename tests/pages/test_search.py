"""Search with marks, two label sets side by side, and the card."""

from __future__ import annotations

import html
import re
import statistics
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from api.pages.search import highlight
from labeler.numbers import number
from labeler.records import Score
from labeler.store import Store
from tests.planted import N_FEATURES
from tests.results import labeled


@pytest.mark.parametrize(
    ("label", "query", "expected"),
    [
        ("running letters", "letter", "running <mark>letters</mark>"),
        (
            "a letter runs",
            "running",
            "a letter runs",
        ),  # 'runn' is no stem of 'runs': what is marked is a help, no proof
        ("the end of line here", '"end of line"', "the <mark>end of line</mark> here"),
        ("red and green", "red -green", "<mark>red</mark> and green"),
        ("<b>bold</b>", "bold", "&lt;b&gt;<mark>bold</mark>&lt;/b&gt;"),
        ("a+b (c)", "+ (", "a+b (c)"),
        ("`self` and self", "SELF", "`<mark>self</mark>` and <mark>self</mark>"),
    ],
)
def test_what_was_found_is_marked(label: str, query: str, expected: str) -> None:
    assert highlight(label, query) == expected


def test_search_finds_labels_with_their_intervals(http: TestClient) -> None:
    text = http.get("/search?q=Q").text
    assert "<mark>Q</mark>" in text
    assert 'href="/saes/1/features/0?set=' in text
    assert re.search(r"<strong>\d\.\d\d</strong> <span class=\"soft\">−?\d\.\d\d to", text)


def test_search_says_what_it_cannot_do(http: TestClient) -> None:
    assert "No label has this word" in http.get("/search?q=zebra").text
    assert "expected a word to look for" in http.get("/search?q=%2B%2B").text
    assert http.get("/search").status_code == 200
    assert "&lt;script&gt;" in http.get("/search?q=<script>window").text
    assert http.get("/search?q=" + "x" * 201).status_code == 422


def test_two_sets_are_compared_side_by_side(http: TestClient) -> None:
    text = http.get("/compare?a=1&b=2").text
    assert "Largest differences of scores" in text
    assert re.search(r"Scored in both</dt><dd>10 ", text)
    assert text.count('class="strip"') >= 2
    missing = http.get("/compare?a=1&b=77")
    assert missing.status_code == 422
    assert "label set 77" in missing.text
    assert "choose a label set" in http.get("/compare").text


def test_sets_are_compared_by_a_score_that_they_have(http: TestClient, store: Store) -> None:
    for label_set in (1, 2):
        result, value = labeled(0, 0.5, "a text"), 0.9 if label_set == 2 else 0.4
        store.save(label_set, [replace(result, scores=(*result.scores, Score("detection", value, n=20)))])
    text = http.get("/compare?a=1&b=2&score=detection").text
    assert "<option selected>detection</option>" in text
    assert "Largest differences of detection" in text
    assert "+0.50" in text
    found = http.get("/v1/compare?a=1&b=2&score=detection").json()
    assert (found["score"], found["n_scored"], found["largest"][0]["score_b"]) == ("detection", 1, 0.9)
    for url in ("/compare", "/v1/compare"):
        missing = http.get(f"{url}?a=1&b=2&score=fuzing")
        assert missing.status_code == 422
        assert "neither label set has it" in missing.text


def test_medians_that_are_compared_are_of_the_same_features(http: TestClient, store: Store) -> None:
    """Set 2 has labels of 12 features: the others of set 1 are no part of its median here."""
    store.save(1, [labeled(i, 0.125) for i in range(12, N_FEATURES)])
    scores = [{r["feature_index"]: r["score"] for r in store.rows(s) if r["score"] is not None} for s in (1, 2)]
    both = sorted(scores[0].keys() & scores[1].keys())
    medians = [statistics.median(s[f] for f in both) for s in scores]
    assert statistics.median(scores[0].values()) != pytest.approx(medians[0]), "else this shows nothing"
    compared = http.get("/v1/compare?a=1&b=2").json()
    assert [compared[f"median_{side}"]["value"] for side in "ab"] == pytest.approx(medians)
    assert compared["median_a"]["n"] == compared["median_b"]["n"] == len(both)
    text = http.get("/compare?a=1&b=2").text
    shown = re.findall(r'Median of <a[^>]*>[^<]*</a></dt><dd>\s*<strong class="figure">([^<]*)', text)
    assert shown == [number(m) for m in medians]
    feature = compared["largest"][0]["feature_index"]
    for label_set in (1, 2):
        assert f'href="/saes/1/features/{feature}?set={label_set}"' in text


def test_the_card_says_how_the_labels_were_made(http: TestClient) -> None:
    text = html.unescape(http.get("/sets/2/card").text)
    for said in (
        "Observational",
        "max-activation-2",
        "price unknown",
        "contexts.explain top",
        "A label is a hypothesis",
    ):
        assert said in text
    assert "These labels are token look-ups" in http.get("/sets/1/card").text


def test_pages_of_hits_hold_each_hit_once(http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from labeler.store.people.reviews import add_review
    from labeler.terms import Verdict

    add_review(store, 1, 7, Verdict.CORRECTED, "ann", text="the token of ann")
    monkeypatch.setattr("api.pages.search._HITS", 9)
    address, found, n_pages = "/search?q=token", list[tuple[str, str]](), 0
    while address:
        text = http.get(address).text
        found += re.findall(
            r'<td class="figure nowrap"><a href="([^"]+)">[^<]*</a></td>\s*<td class="label">(.*?)</td>', text
        )
        link = re.search(r'<a class="button" href="([^"]+)" data-key="next"', text)
        address, n_pages = html.unescape(link[1]) if link else "", n_pages + 1
    assert n_pages > 2
    assert len(set(found)) == len(found)
    assert sum("of ann" in label for _, label in found) == 1
