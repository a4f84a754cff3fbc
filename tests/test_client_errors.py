"""Errors of the client and of commands that ask a service: each says which address was asked, and what to do."""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from labeler.client import Client, ServiceError
from labeler.errors import InputError, LabelerError, NotFoundError, StorageError

URL = "http://127.0.0.1:8000"


def client(answer: Callable[[httpx2.Request], httpx2.Response], url: str = URL) -> Client:
    return Client(url, attempts=1, transport=httpx2.MockTransport(answer))


def problem(status: int, detail: str) -> httpx2.Response:
    body = {"type": "urn:labeler:problem:x", "title": "x", "status": status, "detail": detail}
    return httpx2.Response(status, json=body)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (problem(404, "job 9: there is none"), NotFoundError, f"job 9: there is none (asked of {URL})"),
        (problem(401, "no key"), ServiceError, f"no key (asked of {URL}; set LABELER_KEY to one of its keys"),
        (
            problem(404, "Not Found"),
            ServiceError,
            f"{URL}/v1/jobs/9 answered 404, and not as this version's service does",
        ),
        (
            httpx2.Response(404, text="<h1>nginx</h1>"),
            ServiceError,
            "something else may run at that address, or an older version",
        ),
        (httpx2.Response(200, text="<h1>Jupyter</h1>"), ServiceError, f"{URL}/v1/jobs/9 answered 200, and not as"),
        (httpx2.Response(200, json={"id": 9}), ServiceError, "or an older version"),
    ],
)
def test_the_address_is_named(
    answer: httpx2.Response, kind: type[LabelerError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABELER_KEY", raising=False)
    with client(lambda _: answer) as asking, pytest.raises(kind) as error:
        asking.job(9)
    assert says in str(error.value)


def test_a_key_that_is_not_known_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABELER_KEY", "lbl_secret")
    with client(lambda _: problem(401, "no key")) as asking, pytest.raises(ServiceError) as error:
        asking.job(9)
    assert "LABELER_KEY holds no key of that service" in str(error.value)
    assert "lbl_secret" not in str(error.value)


def test_a_password_in_the_address_is_not_shown() -> None:
    with (
        client(lambda _: problem(404, "none"), "http://me:secret@127.0.0.1:1") as asking,
        pytest.raises(NotFoundError) as error,
    ):
        asking.job(9)
    assert "http://127.0.0.1:1" in str(error.value)
    assert "secret" not in str(error.value)


def test_nobody_there(run: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        away = run("jobs", "list", "--url", url)
    assert away.code == 3
    assert f"the service at {url} cannot be reached" in away.err
    assert "`labeler up` starts it and says where it is; --url or LABELER_URL names another address" in away.err
    refused = run("jobs", "list", "--url", "127.0.0.1:8000")
    assert (refused.code, "expected an address such as http://127.0.0.1:8000" in refused.err) == (2, True)
    with pytest.raises(StorageError), Client(url, attempts=1) as asking:
        asking.job(1)


def test_a_path_in_place_of_an_id() -> None:
    with client(lambda _: problem(500, "not to be asked")) as asking:
        with pytest.raises(InputError, match="this is a path; the service knows it by an id"):
            asking.sae("./sae")
        with pytest.raises(InputError, match="evidence 'a/b': this is a path"):
            asking.evidence_detail("a/b")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder as one that `labeler up` runs on, in the current folder."""
    from labeler.store import open_store

    monkeypatch.chdir(tmp_path)
    data = tmp_path / "its data"
    data.mkdir()
    open_store(str(data / "labeler.db")).close()
    return data


def test_paths_of_a_service_are_those_in_its_data_folder(
    run: Any, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        return problem(422, "out: expected a path in the service's data folder, relative to it")

    real = httpx2.Client
    monkeypatch.setattr(
        "labeler.client.httpx2.Client", lambda **rest: real(**{**rest, "transport": httpx2.MockTransport(answer)})
    )
    words = [
        "jobs",
        "gather",
        "--subject",
        "labeler-demo/subject",
        "--sae",
        served / "my sae",
        "--corpus",
        "python-stdlib",
        "--url",
        URL,
    ]
    with (served / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inside = run(*words, "--out", "its data/evidence")
        outside = run(*words, "--out", "/elsewhere")
    assert (asked[0]["out"], asked[0]["sae"], asked[0]["subject"]) == ("evidence", "my sae", "labeler-demo/subject")
    assert asked[1]["out"] == "/elsewhere"
    assert (inside.code, outside.code) == (2, 2)
    assert "its data, on which `labeler up` runs here" in outside.err
    assert "Copy the input into it and name every path, --out too, relative to that folder" in outside.err
    remote = run(*words[:-1], "http://example.invalid:8000", "--out", "its data/evidence")
    assert asked[2]["out"] == "its data/evidence"
    assert "runs here" not in remote.err
