"""The page that reads texts, as HTML. The worker's part is played here; it is tested with the workers and in the browser."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.pages.try_it import _heats
from api.routes import activations as route
from labeler.evidence.store import EvidenceFolder
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.jobs.activations import MOST_TOKENS, Activations
from labeler.store.people.keys import create_key
from labeler.terms import Scope
from tests.pages.conftest import HTML, SAME_ORIGIN
from tests.results import manifest

HOSTILE = "<script>window.hacked = 1</script>"
ANSWER = {
    "n_firing": 2,
    "tokens": [
        {"token": "Q", "n_firing": 1, "top": [[0, 5.0]]},
        {"token": HOSTILE, "n_firing": 0, "top": []},
        {"token": "\n", "n_firing": 1, "top": [[3, 1.0]]},
    ],
    "features": [
        {"feature_index": 0, "at": [0], "activations": [5.0]},
        {"feature_index": 3, "at": [2], "activations": [1.0]},
    ],
}


@pytest.fixture
def queued(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The service with a queue that nobody listens to."""
    monkeypatch.setattr(route, "announce_texts", lambda store: 0)
    app = create_app(replace(settings, redis="redis://127.0.0.1:1/0"))
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000), headers=HTML) as client:
        yield client


def ask(http: TestClient, text: str = "Q" + HOSTILE + "\n", sae: str = "1", **options: Any) -> Any:
    return http.post("/try", data={"sae": sae, "text": text}, headers=SAME_ORIGIN, **options)


def test_an_sae_that_is_given_is_chosen_however_many_there_are(
    queued: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.pages.try_it._SAES", 1)
    store.add_evidence(manifest(hash="newer"), "/newer")
    assert re.findall(r'<option value="(\d)"( selected)?>', queued.get("/try?sae=1").text) == [("1", " selected")]
    assert re.findall(r'<option value="(\d)"( selected)?>', queued.get("/try").text) == [("2", "")]


def test_a_token_is_painted_by_whatever_fires_on_it() -> None:
    """By the share of the feature's own maximum: on a quiet token too, and by a feature that is not among the strongest."""
    answer = {
        "n_firing": 3,
        "tokens": [
            {"token": "return", "n_firing": 2, "top": [[0, 10.0], [1, 1.0]]},
            {"token": " x", "n_firing": 1, "top": [[2, 0.01]]},
            {"token": "(", "n_firing": 1, "top": [[0, 10.0]]},
            {"token": ")", "n_firing": 0, "top": []},
        ],
        "features": [
            {"feature_index": 0, "at": [0, 2], "activations": [10.0, 10.0]},
            {"feature_index": 1, "at": [0, 2], "activations": [1.0, 0.5]},
        ],
    }
    assert _heats(answer, {0: 100.0, 1: 1.0, 2: 5.0}) == [10, 1, 5, 0]


HALVES = {
    "n_firing": 2,
    "tokens": [
        {"token": "\ufffd", "bytes": "d7", "n_firing": 1, "top": [[0, 5.0]]},
        {"token": "\ufffd", "bytes": "90", "n_firing": 2, "top": [[3, 2.0], [0, 1.0]]},
        {"token": "x", "n_firing": 1, "top": [[3, 1.0]]},
    ],
    "features": [
        {"feature_index": 0, "at": [0, 1], "activations": [5.0, 1.0]},
        {"feature_index": 3, "at": [1, 2], "activations": [2.0, 1.0]},
    ],
}


def test_a_character_of_two_tokens_is_one(queued: TestClient, store: Store) -> None:
    place = ask(queued, "אx", follow_redirects=False).headers["location"]
    Activations(store).claim()
    Activations(store).finish(place.removeprefix("/try/"), HALVES)
    done = queued.get(f"{place}/result").text
    assert re.search(r'title="features 0: 5, 3: 2">א</i><i [^>]*>x</i>', done)
    assert "\ufffd" not in done
    firings = queued.get(f"{place}/firings").json()
    assert firings["tokens"] == [[[0, 5.0], [3, 2.0]], [[3, 1.0]]]
    assert firings["features"] == {"0": [[0], [5.0]], "3": [[0, 1], [2.0, 1.0]]}
    by_rest = queued.get(f"/v1/activations/{place.removeprefix('/try/')}").json()
    assert [t["bytes"] for t in by_rest["tokens"]] == ["d7", "90", None], "each token by itself, for programs"


def test_a_text_is_waited_for_and_then_shown(queued: TestClient, store: Store, settings: Settings) -> None:
    reply = ask(queued, follow_redirects=False)
    assert reply.status_code == 303
    place = reply.headers["location"]
    waiting = queued.get(place).text
    assert f'hx-get="{place}/result"' in waiting
    assert "waits for a gather worker" in waiting
    Activations(store).claim()
    assert "A worker is reading the text" in queued.get(f"{place}/result").text
    Activations(store).finish(place.removeprefix("/try/"), ANSWER)
    done = queued.get(f"{place}/result").text
    assert "hx-get" not in done
    maxima = EvidenceFolder(settings.data / "evidence").maxima  # of the corpus
    heats = [math.ceil(10 * value / max(value, maxima[feature])) for feature, value in ((0, 5.0), (3, 1.0))]
    assert f'<i class="h{heats[0]}" title="features 0: 5">Q</i>' in done
    assert re.search(rf'<i class="h{heats[1]}"[^>]*>↵\n</i>', done), "newlines are visible"
    assert '<i class="h0" title="nothing fires here">' in done
    assert HOSTILE not in queued.get(place).text
    assert re.search(r'<a href="/saes/1/features/0\?set=\d">0</a>', done)
    firings = queued.get(f"{place}/firings").json()
    assert (firings["tokens"], firings["features"]) == (
        [[[0, 5.0]], [], [[3, 1.0]]],
        {"0": [[0], [5.0]], "3": [[2], [1.0]]},
    )
    assert set(firings["labels"]) == {"0", "3"}


def test_a_text_that_was_not_read_says_why_and_is_kept_in_the_form(queued: TestClient, store: Store) -> None:
    place = ask(queued, "some words", follow_redirects=False).headers["location"]
    Activations(store).fail(place.removeprefix("/try/"), "the <subject> is gone")
    text = queued.get(place).text
    assert "the &lt;subject&gt; is gone" in text
    assert re.search(r"<textarea[^>]*>\nsome words</textarea>", text)


@pytest.mark.parametrize(
    ("text", "sae", "status", "says"),
    [
        ("a" * 1_000_000, "1", 422, "the text has 1,000,000 characters"),
        ("  \n", "1", 422, "give some words"),
        ("a", "77", 404, "SAE 77"),
        ("a", "", 422, "expected its id"),
    ],
)
def test_what_cannot_be_read_is_refused_clearly(
    queued: TestClient, store: Store, text: str, sae: str, status: int, says: str
) -> None:
    reply = ask(queued, text, sae)
    assert (reply.status_code, says in reply.text) == (status, True), reply.text[:2000]
    assert "<textarea" in reply.text, "the form is there to try again"
    assert len(reply.text) < 60_000
    assert Activations(store).n_open() == 0


def test_a_longer_body_yet_is_refused_before_it_is_read(queued: TestClient) -> None:
    assert ask(queued, "a" * (5 << 20)).status_code == 413


def test_without_a_queue_the_page_says_so_at_once(http: TestClient) -> None:
    assert "no queue" in http.get("/try").text
    assert ask(http).status_code == 409


def test_who_may_only_read_cannot_ask(queued: TestClient, store: Store) -> None:
    queued.cookies.set("labeler_key", create_key(store, "reader", Scope.READ)[1])
    assert "<textarea" not in queued.get("/try").text
    assert ask(queued).status_code == 403
    assert queued.post("/try", data={"sae": "1", "text": "a"}).status_code == 403


def test_an_answer_that_was_forgotten_is_a_page_that_helps(queued: TestClient) -> None:
    page = queued.get("/try/" + "A" * 32)
    assert page.status_code == 404
    assert "deleted an hour after" in page.text


def test_the_longest_text_is_a_page_below_300_kb(queued: TestClient, store: Store) -> None:
    place = ask(queued, "a" * 20_000, follow_redirects=False).headers["location"]
    tokens = [{"token": " word", "n_firing": 500, "top": [[f, 5.0] for f in range(10)]}] * MOST_TOKENS
    every = {"at": list(range(MOST_TOKENS)), "activations": [1.2345] * MOST_TOKENS}
    features = [{"feature_index": f, **every} for f in range(12)]
    Activations(store).claim()
    Activations(store).finish(place.removeprefix("/try/"), {"n_firing": 500, "tokens": tokens, "features": features})
    assert 100_000 < len(queued.get(place).content) < 300_000
