"""The jobs pages as HTML: the form with its plan, one job with what may be done to it, the list."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from api.pages import new_job
from labeler.recipe import Recipe
from labeler.store import Store
from labeler.store.jobs.blocks import Blocks
from labeler.store.jobs.jobs import Jobs
from labeler.store.people.keys import create_key
from labeler.terms import JobKind, JobState, Scope
from tests.pages.conftest import HOSTILE, SAME_ORIGIN
from tests.planted import N_FEATURES
from tests.results import failed, labeled, manifest

FORM = {"evidence": "1", "features": "all", "recipe": "standard", "explainer": "openai:gpt-5-mini", "priority": "5"}


def planned(http: TestClient, **changes: str) -> tuple[str, dict[str, str]]:
    """The page with the plan, and the fields that submit it."""
    answer = http.post("/jobs/new", data={**FORM, **changes, "act": "plan"}, headers=SAME_ORIGIN)
    assert answer.status_code == 200, answer.text
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', answer.text))
    return answer.text, {**FORM, **changes, **hidden, "act": "submit"}


def test_the_plan_is_shown_before_anything_is_spent(http: TestClient, store: Store) -> None:
    text, fields = planned(http)
    for words in (
        rf"{N_FEATURES}\s*features without a result: 1 silent and 1 rare",
        "<td>simulate</td>",
        r"\$\d+\.\d\d",
        "Submit this job",
    ):
        assert re.search(words, text), words
    assert Jobs(store).page() == []
    made = http.post("/jobs/new", data=fields, headers=SAME_ORIGIN, follow_redirects=False)
    assert (made.status_code, made.headers["location"]) == (303, "/jobs/1")
    again = http.post("/jobs/new", data=fields, headers=SAME_ORIGIN, follow_redirects=False)
    assert again.headers["location"] == "/jobs/1", "a second click asks for the same job"
    job = Jobs(store).get(1)
    assert (job.n_features, job.priority, (job.recipe or {})["explainer"]["model"]) == (N_FEATURES, 5, "gpt-5-mini")


def test_a_form_that_was_changed_shows_its_own_plan(http: TestClient, store: Store) -> None:
    _, fields = planned(http)
    changed = http.post("/jobs/new", data={**fields, "features": "0-3"}, headers=SAME_ORIGIN)
    assert "The form had changed" in changed.text
    assert "4 features without a result" in changed.text
    unplanned = http.post("/jobs/new", data={**FORM, "act": "submit", "planned": ""}, headers=SAME_ORIGIN)
    assert "The form had changed" in unplanned.text
    assert Jobs(store).page() == []


def test_what_is_labelled_is_not_planned_again(http: TestClient) -> None:
    text, _ = planned(http, recipe="lookup", explainer="", features="0-3")
    assert "there is nothing to do" in text
    assert "<dd>$0</dd>" in text


def test_a_plan_above_the_budget_says_so(http: TestClient) -> None:
    text, _ = planned(http, budget_usd="0.0001", budget_tokens="100")
    assert "above the budget of $0.0001" in text
    assert "above the budget of 100 tokens" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evidence": "99"}, "evidence 99"),
        ({"evidence": ""}, "choose what to label"),
        ({"explainer": ""}, "asks an LLM; name it"),
        ({"features": "0-999"}, "out of range"),
        ({"features": "@/etc/passwd"}, "cannot read a file"),
        ({"features": "density>2"}, "no feature is selected"),
        ({"recipe": "../secret"}, "is not known"),
        ({"explainer": "claude"}, "openai:MODEL"),
        ({"budget_usd": "much"}, "budget.usd"),
        ({"budget_usd": "-1"}, "budget.usd"),
        ({"priority": "11"}, "priority"),
    ],
)
def test_mistakes_are_named_and_the_form_is_kept(
    http: TestClient, store: Store, changes: dict[str, str], says: str
) -> None:
    for act in ("plan", "submit"):
        answer = http.post("/jobs/new", data={**FORM, **changes, "act": act}, headers=SAME_ORIGIN)
        assert answer.status_code == 422
        assert says in answer.text.replace("&gt;", ">")
        assert 'value="openai:gpt-5-mini"' in answer.text or "explainer" in changes
    assert Jobs(store).page() == []


def test_others_wait_while_one_plans(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken:
        def acquire(self, timeout: float) -> bool:
            return False

    monkeypatch.setattr(new_job, "_planning", Taken())
    assert http.post("/jobs/new", data={**FORM, "act": "plan"}, headers=SAME_ORIGIN).status_code == 429


def test_the_form_can_be_filled_by_its_address(http: TestClient) -> None:
    text = http.get("/jobs/new", params={"features": 'state=failed"><b>', "evidence": "1", "recipe": "cascade"}).text
    assert "state=failed&#34;&gt;&lt;b&gt;" in text
    assert re.search(r'value="cascade" checked', text)
    assert 'name="explainer" value="openai:hostile"' in text, "the LLM that was asked last"


def test_evidence_that_is_given_is_chosen_however_many_there_are(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_job, "_CHOICES", 1)
    newer = store.add_evidence(manifest(hash="newer"), "/newer")

    def options(**given: object) -> list[tuple[str, str]]:
        return re.findall(
            r'<option value="(\d*)"( selected)?>', http.get("/jobs/new", params=given).text.partition("</select>")[0]
        )

    assert options() == [(str(newer), "")]
    assert options(evidence=1) == [("1", " selected")]
    assert options(evidence=99) == [("", ""), (str(newer), "")], "and no other one in its place"


def test_a_job_is_paused_resumed_cancelled_and_retried_on_its_page(http: TestClient, store: Store) -> None:
    job = Jobs(store).submit(1, Recipe.from_names("openai:new")).id
    for word, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued")):
        assert f'id="{word}"' in http.get(f"/jobs/{job}").text
        text = http.post(f"/jobs/{job}/{word}", headers=SAME_ORIGIN).text
        assert re.search(rf'<span class="tag big {state}">', text)
        assert Jobs(store).get(job).state == state
    too_late = http.post(f"/jobs/{job}/resume", headers=SAME_ORIGIN)
    assert too_late.status_code == 409
    assert "only one that is paused can" in too_late.text
    assert 'id="pause"' in too_late.text, "and it is still the page of the job"
    assert http.post(f"/jobs/{job}/delete", headers=SAME_ORIGIN).status_code == 422
    assert http.post("/jobs/99/pause", headers=SAME_ORIGIN).status_code == 404


def test_a_page_of_another_site_changes_no_job(http: TestClient, store: Store) -> None:
    job = Jobs(store).submit(1, Recipe.from_names("openai:new")).id
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}):
        assert http.post(f"/jobs/{job}/cancel", headers=headers).status_code == 403
        assert http.post("/jobs/new", data={**FORM, "act": "submit"}, headers=headers).status_code == 403
    assert Jobs(store).get(job).state is JobState.QUEUED


def test_who_may_only_read_sees_no_buttons(http: TestClient, store: Store) -> None:
    job = Jobs(store).submit(1, Recipe.from_names("openai:new")).id
    http.cookies.set("labeler_key", create_key(store, "reader", Scope.READ)[1])
    assert 'id="cancel"' not in http.get(f"/jobs/{job}").text
    assert http.post(f"/jobs/{job}/cancel", headers=SAME_ORIGIN).status_code == 403
    http.cookies.set("labeler_key", create_key(store, "writer", Scope.SUBMIT)[1])
    assert 'id="cancel"' in http.get(f"/jobs/{job}").text


def test_progress_and_failures_are_shown_and_link_to_their_features(http: TestClient, store: Store) -> None:
    """A job in mid-block: two features saved, one of them failed with a reason that tries to be more than text."""
    info = Jobs(store).submit(1, replace(Recipe.from_names("openai:new"), seed=3), "0-9")
    lease = Blocks(store).claim(JobKind.LABEL, "me")
    assert lease is not None
    Blocks(store).save(lease, [labeled(0), failed(1, "refused: <script>x</script>")])
    text = http.get(f"/jobs/{info.id}").text
    assert re.search(r"Features done</dt><dd>1 <small", text)
    assert re.search(r"<td>refused</td><td class=\"right\">1</td>", text)
    assert f'<a href="/saes/1/features/1?set={info.label_set_id}">1</a>' in text
    assert "refused: &lt;script&gt;" in text
    assert 'hx-get="/jobs/1/live?seen=running"' in text
    assert "price unknown" in text


def test_the_live_part_brings_new_buttons_when_the_state_has_changed(http: TestClient, store: Store) -> None:
    job = Jobs(store).submit(1, Recipe.from_names("openai:new")).id
    same = http.get(f"/jobs/{job}/live?seen=queued").text
    assert 'hx-trigger="every 1s"' in same
    assert "hx-swap-oob" not in same, "a button under the pointer stays where it is"
    Jobs(store).cancel(job)
    ended = http.get(f"/jobs/{job}/live?seen=queued").text
    assert 'id="controls"' in ended
    assert "hx-swap-oob" in ended
    assert "hx-get" not in ended, "what has ended is not asked about again"


def test_jobs_are_listed_filtered_and_paged(http: TestClient, store: Store) -> None:
    assert "No jobs yet" in http.get("/jobs").text
    ids = [Jobs(store).submit(1, HOSTILE, str(i)).id for i in range(27)]
    Jobs(store).cancel(ids[3], "<b>no</b>")
    first = http.get("/jobs").text
    assert len(re.findall(r'<a href="/jobs/\d+">label \d+</a>', first)) == 25
    assert first.count("hx-get=") == 1, "one request asks for the progress of all"
    asked = re.search(r'hx-get="/jobs/lines\?ids=([\d,]+)"', first)
    assert asked is not None
    assert asked[1].split(",") == [str(i) for i in ids[:1:-1] if i != ids[3]], "of those that go on"
    older = re.search(r'href="(/jobs\?cursor=[^"]+)"', first)
    assert older is not None
    assert "&lt;b&gt;no&lt;/b&gt;" in http.get("/jobs?state=cancelled").text
    assert len(re.findall(r'<a href="/jobs/\d+">', http.get(older[1]).text)) == 2
    assert http.get("/jobs?state=nonsense").status_code == 422
    assert len(first) < 300_000


def test_the_lines_of_a_list_come_together_until_all_have_ended(http: TestClient, store: Store) -> None:
    ids = [Jobs(store).submit(1, HOSTILE, str(i)).id for i in range(2)]
    Jobs(store).cancel(ids[0])
    lines = http.get(f"/jobs/lines?ids={ids[0]},{ids[1]}").text
    assert f'hx-get="/jobs/lines?ids={ids[1]}"' in lines
    assert re.findall(r'<td id="line-(\d+)" [^>]*hx-swap-oob="outerHTML">\s*<span class="tag (\w+)"', lines) == [
        (str(ids[0]), "cancelled"),
        (str(ids[1]), "queued"),
    ]
    Jobs(store).cancel(ids[1])
    assert "hx-get" not in http.get(f"/jobs/lines?ids={ids[1]}").text
    for wrong, status in (("", 422), ("1,x", 422), (",".join("1" * 26), 422), ("999999999", 404)):
        assert http.get(f"/jobs/lines?ids={wrong}").status_code == status


def test_a_gathering_pass_is_shown_by_its_steps(http: TestClient, store: Store) -> None:
    from labeler.store.jobs.states import GatherRequest

    job = Jobs(store).submit_gather(GatherRequest("subjects/tiny", "saes/<one>", "texts", "out", n_shards=3)).id
    text = http.get(f"/jobs/{job}").text
    assert re.search(r"Steps done</dt><dd>0 <small class=\"soft\">of 5", text)
    assert "saes/&lt;one&gt;" in text
    assert "&lt;one&gt;" in http.get("/jobs").text
