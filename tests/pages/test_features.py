"""The page of a feature: label and score, contexts, prompts, reviews."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.pages.charts import STRIP, score_scale
from api.pages.contexts import heat
from api.pages.verdict import verdict
from api.pages.words import label_text
from labeler.evidence.store import EvidenceFolder
from labeler.records import Score
from labeler.store import Store
from labeler.store.label_sets.catalogue import find_evidence
from labeler.store.people.keys import create_key
from labeler.store.people.reviews import add_review, reviews_of_label
from labeler.terms import Scope, Verdict
from labeler.views import feature_view
from tests.pages.conftest import HOSTILE_TEXTS, SAME_ORIGIN
from tests.results import labeled, manifest

FEATURE = "/saes/1/features/2"


def test_a_feature_shows_its_label_with_score_interval_null_and_baseline(http: TestClient) -> None:
    text = http.get(f"{FEATURE}?set=2").text
    assert re.search(r'<h1 class="the-label"><bdi>.*<code>i</code>', text)
    assert re.search(r"<strong>\d\.\d\d</strong> <span class=\"figure\">95% interval −?\d\.\d\d to \d\.\d\d", text)
    assert re.search(
        r'<svg class="scale"[^>]* aria-label="score [\d.]+, interval from [−\d.]+, to [\d.]+, look-up baseline [\d.]+, null',
        text,
    )
    assert "labels of 23 other features" in text or re.search(r"labels of \d+ other features", text)
    assert "max-activation-2" in text
    assert "lookup-2" in text
    assert len(text.encode()) < 300_000


def test_contexts_are_grouped_and_say_on_which_side_they_are(http: TestClient) -> None:
    groups = re.findall(r'aria-label="(\w+) contexts, ([\w-]+)"', http.get(f"{FEATURE}?set=2").text)
    assert groups == [
        ("TOP", "explain"),
        ("TOP", "held-out"),
        ("SAMPLED", "explain"),
        ("SAMPLED", "held-out"),
        ("RANDOM", "held-out"),
    ]


def test_tokens_are_coloured_by_their_share_of_the_maximum() -> None:
    drawn = heat(("a", "<b>", "\n", "Q", "x"), (0.0, 2.5, 0.0, 5.0, 0.01), 5.0)
    assert drawn == (
        'a<i class="h5" title="2.5">&lt;b&gt;</i><span class="nl">↵</span>\n<i class="h10" title="5">Q</i>'
        '<i class="h1" title="0.01">x</i>'
    )


def test_a_simulation_stands_below_the_truth_on_its_own_scale() -> None:
    drawn = heat(("a", "b", "c"), (4.0, 0.0, 0.0), 4.0, (0.0, 10.0, 0.0), 10.0)
    assert drawn == '<i class="h10" title="4, simulated 0">a</i><i class="s10" title="0, simulated 10">b</i>c'


def test_what_would_not_be_seen_is_shown() -> None:
    assert heat(("\u202e", "\x00", "\t", "­"), (0.0,) * 4, 1.0) == (
        '<span class="nl">⟨202E⟩</span><span class="nl">⟨0000⟩</span><span class="nl">→</span>\t<span class="nl">⟨00AD⟩</span>'
    )


def test_the_scale_puts_null_and_baseline_beside_the_score() -> None:
    scale = score_scale(0.5, 0.4, 0.6, baseline=1.0, null_mean=0.0, null_z=5.0)
    assert scale.baseline == STRIP
    assert scale.null == pytest.approx(scale.zero)
    assert scale.null_high is not None
    assert scale.null_high - scale.zero == pytest.approx(0.2 / 1.3 * STRIP)  # two standard deviations of 0.1
    assert score_scale(-0.8, -0.9, 0.1).least == -1.0
    assert score_scale(-0.8, -0.9, 0.1, least=-0.3).value == 0.0
    assert score_scale(None, None, None).words == "no score"


ROW: dict[str, Any] = {
    "label": "x",
    "explainer": "openai:m",
    "score": 0.5,
    "score_reason": None,
    "score_low": 0.4,
    "score_high": 0.6,
    "score_null_p": 0.01,
    "baseline_token_lookup": 0.2,
}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "better than labels of other features do. Beats the token look-up (0.20) with"),
        ({"score_null_p": 0.5}, "it may mean nothing"),
        ({"baseline_token_lookup": 0.55}, "Not clearly better than a table of tokens: the look-up's 0.55 lies in"),
        ({"baseline_token_lookup": 0.9}, "A table of tokens does better"),
        ({"score": None, "score_reason": "the truth is constant"}, "The score is undefined: the truth is constant."),
        ({"explainer": "lookup"}, "It is the token look-up"),
        ({"score_null_p": None, "score_low": -0.1}, "The interval holds 0"),
        ({"score_high": 1 - 1e-15, "baseline_token_lookup": 1.0}, "lies in its interval"),
    ],
)
def test_the_verdict_says_what_the_numbers_say(changed: dict[str, Any], said: str) -> None:
    assert said in (verdict({**ROW, **changed}) or "")
    assert verdict({**ROW, "label": None}) is None


_NONE_OR_ONE = [(None, None), (0.4, None), (None, 0.6), (0.4, 0.6)]


@pytest.mark.parametrize("bounds", _NONE_OR_ONE)
@pytest.mark.parametrize("baseline", [None, 0.2, 0.5, 0.55, 0.9])
@pytest.mark.parametrize("p", [None, 0.01, 0.5])
@pytest.mark.parametrize("explainer", ["openai:m", "lookup"])
def test_no_sentence_speaks_of_a_number_that_is_not_there(
    bounds: tuple[float | None, float | None], baseline: float | None, p: float | None, explainer: str
) -> None:
    low, high = bounds
    row = {**ROW, "score_low": low, "score_high": high, "baseline_token_lookup": baseline, "score_null_p": p}
    said = verdict({**row, "explainer": explainer}) or ""
    has_interval = None not in bounds
    for words in ("its interval", "whole interval", "The interval holds"):
        assert has_interval or words not in said
    assert ("other features" in said) == (p is not None)
    if explainer != "lookup":
        assert ("0.20" in said or "0.50" in said or "0.55" in said or "0.90" in said) == (baseline is not None)
        assert has_interval or baseline is None or "without an interval" in said
    assert "—" not in said
    words = score_scale(0.5, low, high, baseline).words
    assert ("interval" in words, "to 0" in words) == (has_interval, has_interval)


def test_a_score_without_interval_null_and_baseline_is_said_plainly(http: TestClient, store: Store) -> None:
    bare = Score("simulation", 0.5, None, n=12)
    store.save(3, [replace(labeled(0), scores=(bare,))])
    text = re.sub(r"<[^>]*>", " ", http.get("/saes/1/features/0?set=3").text)
    shown = text[text.index("0.50") : text.index("Other scores")]
    assert "no interval" in shown
    assert "95%" not in shown
    assert "—" not in shown
    assert "look-up baseline" not in shown
    assert "There is no interval and no null" in shown


def test_links_of_a_feature_keep_its_label_set(http: TestClient) -> None:
    for path in (FEATURE, f"{FEATURE}?set=1", f"{FEATURE}?set=2"):  # without a set, that of the default rule
        text = http.get(path).text
        links = re.findall(r'(?:href|data-copy|data-copy-from)="(/(?:v1/)?saes/1[^"]*)"', text)
        assert [link for link in links if "set=" not in link] == []
        canonical = re.search(rf'<link rel="canonical" href="{FEATURE}\?set=(\d)">', text)
        assert canonical is not None
        assert path.endswith((FEATURE, f"set={canonical[1]}"))
        assert f'data-copy="{FEATURE}?set={canonical[1]}"' in text
        assert f'href="/saes/1/features/3?set={canonical[1]}" data-key="next"' in text
    assert re.search(r'<link rel="canonical" href="/saes/1\?set=\d">', http.get("/saes/1").text)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("`a` and `b`", "<code>a</code> and <code>b</code>"),
        ("the token ```", "the token <code>`</code>"),
        ("```` twice", "<code>``</code> twice"),
        ("`a`b` alone", "<code>a`b</code> alone"),
        ("`` a`b `` by Markdown", "<code>a`b</code> by Markdown"),
        ("``a`` and `b`", "<code>a</code> and <code>b</code>"),
        ("` `` at the end", '<code><i class="blank"> </i>`</code> at the end'),
        ("`cat`s and `dog`", "<code>cat</code>s and <code>dog</code>"),
        ("one ` alone", "one ` alone"),
        ("`<b>`", "<code>&lt;b&gt;</code>"),
        ("` the`", '<code><i class="blank"> </i>the</code>'),
        ("`a  b `", '<code>a<i class="blank"> </i><i class="blank"> </i>b<i class="blank"> </i></code>'),
        ("אב `c`", "אב <code>c</code>"),
    ],
)
def test_code_in_a_label_is_what_stands_between_its_backticks(label: str, shown: str) -> None:
    assert label_text(label) == f"<bdi>{shown}</bdi>"


def test_an_undefined_score_is_its_reason_and_no_number(http: TestClient) -> None:
    text = http.get("/saes/1/features/8?set=3").text
    assert "The score is undefined: the simulation is constant." in text
    assert 'class="scale"' not in text


@pytest.mark.parametrize(
    ("feature", "said"), [(9, "never fired on"), (10, "&lt;script&gt;window.hacked = 1&lt;/script&gt;: no")]
)
def test_a_feature_without_a_label_says_why(http: TestClient, feature: int, said: str) -> None:
    text = http.get(f"/saes/1/features/{feature}?set=3").text
    assert said in text
    assert "There is nothing to score." in text


def test_a_feature_that_no_set_has_yet_is_pending_with_its_contexts(http: TestClient) -> None:
    text = http.get("/saes/1/features/20?set=2").text
    assert "Label set 2 has nothing of this feature so far" in text
    assert 'aria-label="TOP contexts, explain"' in text


def test_without_its_evidence_a_feature_keeps_its_label(http: TestClient, store: Store, tmp_path: Path) -> None:
    moved = Path(store.label_set(1).evidence_path)
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE evidence SET path = '/nowhere'")
    assert moved.exists()
    answer = http.get(f"{FEATURE}?set=1")
    assert answer.status_code == 200
    assert "cannot be read on the machine that serves this" in answer.text
    assert "/nowhere" not in answer.text
    other = store.add_evidence(manifest(hash="other", hookpoint="layers.9"), "/nowhere")
    unlabeled = http.get(f"/saes/{find_evidence(store, str(other)).sae_id}/features/0").text
    assert "cannot be read on the machine that serves this" in unlabeled
    assert "/nowhere" not in unlabeled


@pytest.mark.parametrize("path", ["/saes/1/features/99", "/saes/77/features/0", "/saes/1/features/0?set=9"])
def test_what_is_not_there_is_a_page_that_helps(http: TestClient, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert 'action="/search"' in answer.text


def test_the_same_address_below_v1_is_the_same_feature_as_json(http: TestClient) -> None:
    assert http.get("/v1/saes/1/features/2?set=2").json() == http.get("/v1/features/1/2?set=2").json()
    assert 'data-copy-from="/v1/saes/1/features/2?set=2"' in http.get(f"{FEATURE}?set=2").text


def test_hostile_labels_stay_text_everywhere(http: TestClient) -> None:
    for feature, hostile in enumerate(HOSTILE_TEXTS):
        for path in (f"/saes/1/features/{feature}?set=3", f"/saes/1/features/{feature}?set=3&embed=1"):
            text = http.get(path).text
            if "<" in hostile:
                assert hostile not in text, path
            heading = re.search(r'<h1 class="the-label"><bdi>(.*?)</bdi>', text, re.DOTALL)
            assert heading is not None
            assert html.unescape(re.sub(r"</?code>", "`", heading[1])) == hostile


def test_prompts_and_replies_are_those_of_the_ledger(http: TestClient, store: Store) -> None:
    from labeler.store.tables.label_sets import REPLIES

    text = html.unescape(http.get(f"{FEATURE}/prompts?set=2").text)
    assert "4 requests" in text
    assert "Say what the feature detects" in text
    assert text.count("The feature detects: ") == 3
    assert "not in the ledger" not in text
    with store.database.writing() as connection:
        connection.execute(REPLIES.delete().where(REPLIES.c.purpose == "simulate"))
    assert http.get(f"{FEATURE}/prompts?set=2").text.count("not in the ledger") == 3
    assert "no LLM was asked" in http.get(f"{FEATURE}/prompts?set=1").text
    assert "<html" not in http.get(f"{FEATURE}/prompts?set=2", headers={"HX-Request": "true"}).text


def test_a_review_is_kept_with_who_wrote_it(http: TestClient, store: Store) -> None:
    said = {"set": "2", "verdict": "corrected", "text": "the vowels <a>, <e>", "comment": "plainly"}
    answer = http.post(f"{FEATURE}/reviews", data=said, headers=SAME_ORIGIN)
    assert answer.url.path == FEATURE
    assert "the vowels &lt;a&gt;, &lt;e&gt;" in answer.text
    (review,) = reviews_of_label(store, 2, 2)
    assert (review.verdict, review.text, review.comment, review.reviewer) == (
        "corrected",
        "the vowels <a>, <e>",
        "plainly",
        "local",
    )
    http.post(f"{FEATURE}/reviews", data={"set": "2", "verdict": "accept", "text": ""}, headers=SAME_ORIGIN)
    assert [r.text for r in reviews_of_label(store, 2, 2)] == ["the vowels <a>, <e>", None]


def test_a_saved_field_is_what_it_is_for(http: TestClient, store: Store) -> None:
    def say(**said: str) -> None:
        assert http.post(f"{FEATURE}/reviews", data={"set": "2", **said}, headers=SAME_ORIGIN).status_code == 200

    say(verdict="accept", comment="yes")
    say(verdict="save", text=" ", comment="and in dates")
    say(verdict="save", text="a vowel", comment="")
    say(text="no button at all")
    kept = [(r.verdict, r.text, r.comment) for r in reviews_of_label(store, 2, 2)]
    assert kept == [
        ("accept", None, "yes"),
        ("comment", None, "and in dates"),
        ("corrected", "a vowel", None),
        ("corrected", "no button at all", None),
    ]


def test_a_review_is_withdrawn_on_the_page_and_stays_in_its_list(http: TestClient, store: Store) -> None:
    http.post(f"{FEATURE}/reviews", data={"set": "2", "verdict": "save", "text": "a vowel"}, headers=SAME_ORIGIN)
    (review,) = reviews_of_label(store, 2, 2)
    page = http.get(f"{FEATURE}?set=2").text
    address = f"{FEATURE}/reviews/{review.id}/withdraw"
    assert f'action="{address}"' in page
    assert "not scored" in page
    after = http.post(address, data={"set": "2"}, headers=SAME_ORIGIN)
    assert after.url.path == FEATURE
    assert 'class="withdrawn"' in after.text
    assert "not scored" not in after.text
    assert f'action="{address}"' not in after.text
    part = http.post(address, data={"set": "2"}, headers={**SAME_ORIGIN, "HX-Request": "true"})
    assert part.text.startswith('<section id="reviews"')
    assert http.post(address, data={"set": "2"}, headers={"Origin": "https://evil.example"}).status_code == 403


def test_nobody_withdraws_what_another_said(http: TestClient, store: Store) -> None:
    review = add_review(store, 2, 2, Verdict.ACCEPT, "ann")
    http.cookies.set("labeler_key", create_key(store, "ben", Scope.SUBMIT)[1])
    address = f"{FEATURE}/reviews/{review.id}/withdraw"
    assert address not in http.get(f"{FEATURE}?set=2").text
    assert http.post(address, data={"set": "2"}, headers=SAME_ORIGIN).status_code == 409
    http.cookies.set("labeler_key", create_key(store, "eve", Scope.READ)[1])
    assert 'class="review"' not in http.get(f"{FEATURE}?set=2").text


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"verdict": "corrected", "text": " "}, "write the corrected text first"),
        ({"verdict": "save", "text": " "}, "write a corrected text or a comment, then save it"),
        ({"verdict": "accept", "text": "<typed>"}, "clear the field to accept the label as it is"),
        ({"verdict": "maybe"}, "choose accept, reject, corrected"),
        ({"verdict": "save", "text": "x" * 201}, "at most 200 characters"),
    ],
)
def test_a_review_that_cannot_be_kept_comes_back_with_the_reason(
    http: TestClient, store: Store, said: dict[str, str], problem: str
) -> None:
    answer = http.post(f"{FEATURE}/reviews", data={"set": "2", **said}, headers=SAME_ORIGIN)
    assert answer.status_code == 422
    assert problem in html.unescape(answer.text)
    part = http.post(f"{FEATURE}/reviews", data={"set": "2", **said}, headers={**SAME_ORIGIN, "HX-Request": "true"})
    assert part.status_code == 200
    assert problem in html.unescape(part.text)
    assert reviews_of_label(store, 2, 2) == []
    for shown in (answer.text, part.text):
        assert f'name="text" maxlength="200" value="{html.escape(said.get("text", "").strip())}"' in shown
        assert ('aria-invalid="true"' in shown) == ("text" in said), "the reason stands at its field"


def test_reviews_need_a_key_that_may_submit_and_a_page_of_ours(http: TestClient, store: Store) -> None:
    said = {"set": "2", "verdict": "accept"}
    assert http.post(f"{FEATURE}/reviews", data=said, headers={"Origin": "https://evil.example"}).status_code == 403
    http.cookies.set("labeler_key", create_key(store, "ann", Scope.READ)[1])
    assert http.post(f"{FEATURE}/reviews", data=said, headers=SAME_ORIGIN).status_code == 403
    http.cookies.set("labeler_key", create_key(store, "bea", Scope.SUBMIT)[1])
    http.post(f"{FEATURE}/reviews", data=said, headers=SAME_ORIGIN)
    assert [r.reviewer for r in reviews_of_label(store, 2, 2)] == ["bea"]


def test_the_embedded_form_may_be_framed_and_is_small(http: TestClient) -> None:
    answer = http.get(f"{FEATURE}?set=2&embed=1")
    assert "frame-ancestors *" in answer.headers["content-security-policy"]
    assert "x-frame-options" not in answer.headers
    assert "<nav" not in answer.text
    assert "<form" not in answer.text
    assert len(answer.text.encode()) < 40_000


def test_damaged_evidence_is_a_reason_and_no_error_of_ours(http: TestClient, store: Store) -> None:
    folder = Path(store.label_set(1).evidence_path)
    copy = folder.parent / "damaged"
    shutil.copytree(folder, copy)
    (copy / "manifest.json").write_text("{")
    with store.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE evidence SET path = '{copy}'")
    assert "manifest.json: damaged, not JSON" in http.get(FEATURE).text


def test_damage_to_a_file_is_named_as_it_is_called_in_its_folder(http: TestClient, store: Store) -> None:
    folder = Path(store.label_set(1).evidence_path)
    copy = folder.parent / "damaged vocabulary"
    shutil.copytree(folder, copy)
    vocabulary = copy / "vocabulary.bytes.npy"
    vocabulary.write_bytes(vocabulary.read_bytes()[:-1] + b"~")
    with store.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE evidence SET path = '{copy}'")
    page, answer = http.get(FEATURE), http.get(f"/v1{FEATURE}")
    assert (page.status_code, answer.status_code) == (200, 200)
    for text in (page.text, answer.json()["contexts_reason"]):
        assert "vocabulary.bytes.npy" in text
        assert str(folder.parent) not in text
    assert answer.json()["labels"]


def test_an_imported_label_set_is_read_as_any_other(store: Store, tmp_path: Path) -> None:
    """Its file brought labels, scores and some contexts; its evidence is elsewhere."""
    from api.app import create_app
    from labeler.export.export import export_label_set
    from labeler.imports.labels import import_labels
    from labeler.settings import Settings
    from labeler.store import open_store
    from tests.pages.conftest import HTML

    export_label_set(store, 2, "jsonl", tmp_path / "labels.jsonl", top_contexts=3)
    elsewhere = open_store(str(tmp_path / "elsewhere.db"))
    import_labels(elsewhere, tmp_path / "labels.jsonl")
    elsewhere.close()
    app = create_app(Settings(database=str(tmp_path / "elsewhere.db"), data=tmp_path))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000), headers=HTML) as http:
        for path in (
            "/",
            "/saes/1",
            "/sets/1/card",
            FEATURE,
            f"{FEATURE}?embed=1",
            "/search?q=i",
            "/saes/1/features/20",
        ):
            assert http.get(path).status_code == 200, path
        text = http.get(FEATURE).text
        assert len(re.findall(r'<p class="tokens" dir="auto">', text)) == 3
        assert '<i class="h10" title="3">i</i>' in text
        assert "made elsewhere" in http.get(f"{FEATURE}/prompts").text
        assert "Imported" in http.get("/sets/1/card").text


def test_contexts_in_which_every_token_fires_fit_on_a_page() -> None:
    """70 windows of 32 tokens, as many as the standard recipe shows, each fired on and simulated."""
    window = heat((" longish",) * 32, (12.3,) * 32, 20.0, (7.5,) * 32, 10.0)
    assert 70 * len(window.encode()) < 200_000


def test_a_simulation_says_which_strengths_rest_on_little(http: TestClient, store: Store, data: Path) -> None:
    said = "rest on less than a thousandth of the simulator's probability"
    assert said not in http.get(f"{FEATURE}?set=2").text
    result = feature_view(EvidenceFolder(data / "evidence"), 2, store, 2).result
    first, *others = result.simulations
    store.save(2, [replace(result, simulations=(replace(first, n_flagged=3), *others))])
    text = http.get(f"{FEATURE}?set=2").text
    assert text.count(said) == 1
    assert f"3 of these strengths {said}" in text
