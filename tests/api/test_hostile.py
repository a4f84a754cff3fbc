"""Requests that mean harm: none gets a 5xx, none reads or writes where it should not, and all are answered soon."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from api.bodies import nests_deeper
from api.requests import below
from labeler.errors import InputError
from labeler.store import Store

OUTSIDE = [
    "/etc/passwd",
    "../secret",
    "a/../../secret",
    "~/secret/../../..",
    "",
    ".",
    "a\x00b",
    "C:\\..\\..\\x/../../y",
    "..",
    "link/x",
]
ADDRESSES = [
    "http://169.254.169.254/latest/meta-data",
    "http://127.0.0.1:6379/",
    "http://[::1]/",
    "http://0x7f000001/",
    "file:///etc/passwd",
    "gopher://localhost:25/",
    "http://localhost@evil.example/",
    "//evil.example",
    "http://2130706433/",
]
SQL = [
    "' OR 1=1 --",
    '"; DROP TABLE result; --',
    "1); DELETE FROM label_set; --",
    "%' UNION SELECT sha256 FROM api_key --",
    "\\'",
]
TRICKS = [
    "\u202eevil\u202c",
    "Z" + "\u0301" * 500,
    "\U0001f600" * 50,
    "\ufeffstart",
    "a\u0000b",
    "\x1b[31mred",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\u2028line",
    "İıſK",
    "ﬁ½²",
    "line\nbreak",
]


@pytest.fixture
def rows(store: Store) -> Iterator[int]:
    """Nothing of this changes a row."""
    before = list(store.rows(1)), list(store.rows(2))
    yield len(before[0])
    assert (list(store.rows(1)), list(store.rows(2))) == before


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_stays_below_the_data_folder(http: TestClient, data: Path, path: str) -> None:
    (data / "link").symlink_to("/etc")
    asked = {"subject": "s", "sae": "a", "corpus": "python-stdlib", "out": "o"}
    for name in asked:
        reply = http.post("/v1/jobs:gather", json={**asked, name: path})
        assert reply.status_code == 422, (name, path, reply.text)
    assert http.post("/v1/evidence", json={"path": path}).status_code == 422
    with pytest.raises(InputError):
        below(path, data, "out")


NO_CORPUS = [
    "hf:/any/absolute/folder",
    "hf:folder",
    "hf:./folder",
    "hf:../folder",
    "hf:~",
    "hf:link",
    "hf:folder/below",
    "hf:C:\\x",
    "hf:http://a.example/x",
    "hf:a/b/c",
    "huggingface/token",
    "notes.db",
    ".hidden/notes.txt",
    ".notes.txt",
    "huggingface/../.notes.txt",
    "pipe.jsonl",
]


@pytest.mark.parametrize("corpus", NO_CORPUS)
def test_a_corpus_is_text_of_the_data_folder_or_of_the_hub(
    http: TestClient, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str
) -> None:
    home = tmp_path / "home"
    (home / "folder" / "below").mkdir(parents=True)
    (home / "link").symlink_to("/etc")
    monkeypatch.chdir(home)
    for name in ("huggingface/token", "notes.db", ".hidden/notes.txt", ".notes.txt"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("a secret")
    os.mkfifo(data / "pipe.jsonl")
    asked = {"subject": "owner/model", "sae": "neurons", "corpus": corpus, "out": "o"}
    reply = http.post("/v1/jobs:gather", json=asked)
    assert reply.status_code == 422, reply.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sae", "hf:/abs/folder"),
        ("sae", "hf:a/b/../../c"),
        ("sae", "hf:a/b@../../x"),
        ("sae", "hf:a/b//c"),
        ("sae", "hf:folder/below"),
        ("sae", "sae-lens:r/../x"),
        ("sae", "sae-lens:x"),
        ("subject", "folder/below"),
        ("subject", "folder"),
        ("subject", ".hidden"),
        ("revision", "../../x"),
        ("revision", "a..b"),
        ("revision", "/abs"),
        ("sae", ".hidden"),
        ("out", ".hidden/o"),
    ],
)
def test_a_name_on_the_hub_is_no_path(
    http: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (tmp_path / "home" / "folder" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home")
    asked = {"subject": "owner/model", "sae": "hf:owner/sae/layer.1@v1", "corpus": "hf:owner/texts:train", "out": "o"}
    assert http.post("/v1/jobs:gather", json=asked).status_code == 202
    reply = http.post("/v1/jobs:gather", json={**asked, name: value})
    assert reply.status_code == 422, reply.text


@pytest.mark.parametrize("url", ADDRESSES)
def test_no_request_names_an_endpoint(http: TestClient, url: str) -> None:
    bodies = [
        {"evidence": 1, "base_url": url},
        {"evidence": 1, "recipe": {"base_url": url}},
        {"evidence": 1, "recipe": {"model": "m", "explainer": {"base_url": url}}},
        {"evidence": 1, "recipe": {"model": "m", "scorers": [{"kind": "detection", "base_url": url}]}},
        {"evidence": 1, "recipe": url},
    ]
    for body in bodies:
        assert http.post("/v1/jobs", json=body).status_code == 422
    for name in ("subject", "sae", "corpus"):
        asked = {"subject": "s", "sae": "a", "corpus": "python-stdlib", "out": "o", name: url}
        reply = http.post("/v1/jobs:gather", json=asked)
        # What is no name of the hub is a path, and lies in the data folder.
        assert reply.status_code == 422 or not reply.json()["gather"][name].startswith("/")


@pytest.mark.parametrize("text", SQL + TRICKS)
def test_any_text_in_any_parameter(http: TestClient, rows: int, text: str) -> None:
    value = quote(text)
    urls = [
        *(
            f"/v1/labels?{name}={value}"
            for name in ("sae", "set", "state", "explainer", "recipe", "text", "sort", "cursor", "score_min")
        ),
        *(f"/v1/search?{name}={value}&q=x" for name in ("q", "sae", "set", "cursor")),
        f"/v1/saes/{value}",
        f"/v1/evidence/{value}",
        f"/v1/features/{value}/0",
        f"/v1/features/1/{value}",
        f"/v1/sets/{value}/card",
        f"/v1/sets/1/export?format={value}",
        f"/v1/jobs?state={value}",
        f"/v1/compare?a={value}&b=2",
    ]
    for url in urls:
        reply = http.get(url)
        assert reply.status_code in (200, 404, 422), (url, reply.text)
        if reply.status_code == 200 and url.startswith(
            ("/v1/labels?explainer", "/v1/labels?recipe", "/v1/labels?text")
        ):
            assert reply.json()["items"] == []
    for body in (
        {"evidence": 1, "features": text},
        {"evidence": 1, "recipe": text},
        {"evidence": 1, "explainer": text},
    ):
        assert http.post("/v1/jobs", json=body).status_code == 422


@pytest.mark.parametrize("text", TRICKS)
def test_tricks_in_a_person_s_label(http: TestClient, text: str) -> None:
    reply = http.post("/v1/labels/1/0/reviews", json={"verdict": "corrected", "text": text})
    if text.isprintable() and len(text) <= 200:
        assert reply.json()["text"] == text
        assert "application/json" in reply.headers["content-type"], "and so no browser runs it"
    else:
        assert reply.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b'{"verdict": "corrected", "text": "\\ud800"}',
        b'{"verdict": "accept", "comment": "a\\u0000"}',
        b'{"verdict": "\xff"}',
        b'{"verdict": NaN}',
        b"",
        b"{",
        b"[]",
        b"null",
        b"1" * 5000,
    ],
)
def test_bodies_that_are_no_request(http: TestClient, body: bytes) -> None:
    reply = http.post("/v1/labels/1/0/reviews", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422), reply.text
    assert reply.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("number", ["-1", "0", "2147483648", "9" * 30, "1e3", "nan", "inf", "0x10", "１"])
def test_numbers_out_of_range(http: TestClient, number: str) -> None:
    for url in (
        f"/v1/labels/{number}/{number}",
        f"/v1/sets/{number}",
        f"/v1/jobs/{number}",
        f"/v1/features/{number}/{number}",
        f"/v1/labels?set={number}&limit={number}",
        f"/v1/sets/1/export?after={number}&limit={number}",
        f"/v1/labels?score_min={number}&density_max={number}",
    ):
        assert http.get(url).status_code in (200, 404, 422), url
    pairs = json.dumps({"pairs": [[1, 0]]}).replace("0", number)
    sent = http.post("/v1/labels:lookup", content=pairs.encode(), headers={"Content-Type": "application/json"})
    assert sent.status_code in (200, 422)


def test_a_body_of_100_mb_is_refused_unread(http: TestClient) -> None:
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * (1 << 20)

    began = time.monotonic()
    assert http.post("/v1/labels:lookup", content=b"", headers={"Content-Length": str(100 << 20)}).status_code == 413
    streamed = http.post("/v1/labels:lookup", content=body(), headers={"Content-Type": "application/json"})
    assert (streamed.status_code, streamed.headers["content-type"]) == (413, "application/problem+json")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "deep", [b"[" * 10_000 + b"]" * 10_000, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"[" * 1_000_000]
)
def test_json_10_000_deep_is_refused(http: TestClient, deep: bytes) -> None:
    for url in ("/v1/jobs", "/v1/labels:lookup", "/v1/labels/1/0/reviews"):
        reply = http.post(url, content=deep, headers={"Content-Type": "application/json"})
        assert (reply.status_code, "nested deeper" in reply.text) == (422, True)


def test_depth_is_counted_outside_strings() -> None:
    assert not nests_deeper(json.dumps({"pairs": [[1, 2]] * 5000}).encode(), 3)
    assert not nests_deeper(json.dumps(["[" * 100, '\\"' + "{" * 100]).encode(), 3)
    assert nests_deeper(b"[" * 5, 4)
    assert nests_deeper(b'["]", {"\\\\": [[["', 4)
    assert not nests_deeper(b"[]{}" * 5, 4)


def test_a_string_that_does_not_end_is_read_once() -> None:
    """Read again from each of its quotes, what stands behind them would be counted, and 40 KB would take seconds."""
    assert not nests_deeper(b'"' + b'\\"' * 1000 + b"[" * 5, 4)


def test_a_selection_has_limits(http: TestClient) -> None:
    assert http.post("/v1/jobs", json={"evidence": 1, "features": "1," * 600_000}).status_code == 422
    assert http.post("/v1/labels:lookup", json={"pairs": [], "sets": list(range(1, 2000))}).status_code == 422
    assert http.get("/v1/labels?limit=501").status_code == 422


MARK = "Zq"


@pytest.mark.parametrize("long", [MARK * 2_000, f"'{MARK}' " * 1_000, f"{MARK} {MARK}\n" * 1_000])
def test_an_answer_repeats_little_of_what_was_sent(http: TestClient, long: str) -> None:
    """In any parameter, field, name of a field, or value within a recipe; however many are wrong at once."""
    job: dict[str, object] = {"evidence": 1}
    bodies: dict[str, list[object]] = {
        "/v1/jobs": [
            {long: 1},
            {f"{long}{n}": n for n in range(50)},
            {"evidence": long},
            [long] * 50,
            long,
            *(
                {**job, name: long}
                for name in ("features", "recipe", "explainer", "simulator", "scores_of", "priority", "budget")
            ),
            {**job, "recipe": {long: 1}},
            {**job, "recipe": {"model": "m", "scorers": long}},
            {**job, "recipe": {"model": [long]}},
            {**job, "recipe": {"model": "m", "explainer": {long: long}}},
            {**job, "recipe": {"model": "m", "seed": {long: [long]}}},
            {**job, "features": f"0 and density>{long[:5000]}"},
            {**job, "features": f"0 and {long}"},
        ],
        "/v1/jobs:gather": [
            {"subject": "s", "sae": "a", "corpus": "python-stdlib", "out": "o", name: value}
            for name in ("subject", "sae", "corpus", "out", "dtype", "hookpoint", "n_tokens")
            for value in (long, long[:480], [long])
        ],
        "/v1/labels:lookup": [{"pairs": [[long, long]] * 50}, {"pairs": [], "choose": long}],
        "/v1/labels/1/0/reviews": [{"verdict": long}, {"verdict": "corrected", "text": long}],
        "/v1/activations": [{"sae": 1, "text": long * 9}, {"sae": long, "text": "a"}],
        "/v1/evidence": [{"path": long}, {"path": long[:480]}],
    }
    for url, sent in bodies.items():
        for body in sent:
            _says_little(http.post(url, json=body), url)
    value = quote(long[:1000])
    for name in ("sae", "set", "state", "explainer", "recipe", "text", "sort", "cursor", "score_min", "limit"):
        _says_little(http.get(f"/v1/labels?{name}={value}"), name)
    for url in (
        f"/v1/saes/{value}",
        f"/v1/evidence/{value}",
        f"/v1/features/1/{value}",
        f"/v1/search?q={value}",
        f"/{value}",
    ):
        _says_little(http.get(url), url)
    for url in ("/v1/jobs/1/retry", "/v1/keys/00000000"):
        _says_little(http.post(url, headers={"Idempotency-Key": long[:1000].strip().replace("\n", "")}), url)


def _says_little(reply: Response, what: str) -> None:
    if reply.status_code >= 400:
        assert reply.text.count(MARK) * len(MARK) <= 200, (what, reply.text)
        assert len(reply.text) < 3000, what


OWNED = [
    "labeler.db",
    "labeler.db-wal",
    "labeler.db-journal",
    "labeler.db/x",
    "other.db-shm",
    "up.lock",
    "logs",
    "logs/x",
    ".cache",
    "mine",
    "a.partial",
    "notes.txt",
]


@pytest.mark.parametrize("out", OWNED)
def test_a_gather_job_writes_to_nothing_that_is_there(http: TestClient, data: Path, out: str) -> None:
    (data / "mine").mkdir()
    (data / "mine" / "weights").touch()
    (data / "notes.txt").touch()
    asked = {"subject": "s", "sae": "a", "corpus": "python-stdlib"}
    refused = http.post("/v1/jobs:gather", json={**asked, "out": out})
    # Hidden names are refused before that, as paths of no one's data.
    says = "expected a path in the service's data folder" if out == ".cache" else "name a new folder"
    assert (refused.status_code, says in refused.text) == (422, True)
    (data / "empty").mkdir()
    (data / "begun").mkdir()
    (data / "begun" / "plan.json").touch()
    for free in ("evidence/new", "empty", "begun"):
        assert http.post("/v1/jobs:gather", json={**asked, "out": free}).status_code == 202
