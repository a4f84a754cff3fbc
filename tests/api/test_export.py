"""Downloads: whole, in ranges, on conditions; never the bytes of two versions in one file."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from api import spool
from labeler.client import Client
from labeler.export.stream import encode_rows, read_rows
from labeler.store import Store
from labeler.store.people.reviews import add_review
from labeler.terms import Verdict
from tests.results import labeled

URL = "/v1/sets/1/export?format="


def whole(http: TestClient, kind: str) -> tuple[bytes, str]:
    reply = http.get(URL + kind, headers={"Accept-Encoding": "identity"})
    assert (reply.status_code, reply.headers["accept-ranges"]) == (200, "bytes")
    return reply.content, reply.headers["etag"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_broken_download_goes_on_where_it_broke(http: TestClient, kind: str) -> None:
    content, tag = whole(http, kind)
    n = len(content)
    for asked, start, end in (
        ("bytes=0-", 0, n),
        (f"bytes={n // 3}-", n // 3, n),
        ("bytes=10-19", 10, 20),
        ("bytes=-7", n - 7, n),
        (f"bytes={n - 1}-{n + 5}", n - 1, n),
        (f"bytes=-{n + 5}", 0, n),
    ):
        reply = http.get(URL + kind, headers={"Range": asked, "If-Range": tag})
        assert (reply.status_code, reply.content) == (206, content[start:end]), asked
        assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{n}"
        assert reply.headers["content-length"] == str(end - start)
        assert reply.headers["etag"] == tag
    for asked in (f"bytes={n}-", "bytes=-0"):
        beyond = http.get(URL + kind, headers={"Range": asked})
        assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{n}")
    for odd in ("bytes=5-2", "lines=1-2", "bytes=-", "bytes=1-2,5-6", "bytes=" + "9" * 30 + "-", "bytes=\u0661-"):
        reply = http.get(URL + kind, headers={"Range": odd.encode()})  # type: ignore[dict-item]
        assert reply.status_code in (200, 416), odd
        assert reply.status_code == 416 or reply.content == content


def test_another_process_has_the_same_bytes_under_the_same_tag(http: TestClient) -> None:
    before = [whole(http, kind) for kind in ("jsonl", "csv", "parquet")]
    http.app.state.spool.close()  # type: ignore[attr-defined]
    http.app.state.spool = spool.Spool()  # type: ignore[attr-defined]
    assert [whole(http, kind) for kind in ("jsonl", "csv", "parquet")] == before
    assert len({tag for _, tag in before}) == 3


def change_a_label(store: Store) -> None:
    store.save(1, [labeled(3, 0.25, "another text")])


def review_a_label(store: Store) -> None:
    add_review(store, 1, 0, Verdict.ACCEPT, "ann")


@pytest.mark.parametrize("change", [change_a_label, review_a_label])
def test_a_change_gives_the_new_whole_and_never_its_end(
    http: TestClient, store: Store, change: Callable[[Store], None]
) -> None:
    content, tag = whole(http, "jsonl")
    change(store)
    again = http.get(URL + "jsonl", headers={"Range": "bytes=100-", "If-Range": tag, "Accept-Encoding": "identity"})
    assert again.status_code == 200
    assert again.content == b"".join(encode_rows("jsonl", read_rows(store, 1), dict)) != content
    assert again.headers["etag"] != tag
    assert http.get(URL + "jsonl", headers={"If-Match": tag}).status_code == 412
    assert http.get(URL + "jsonl", headers={"If-Match": again.headers["etag"]}).status_code == 200


def test_looking_at_a_label_set_changes_no_version(http: TestClient) -> None:
    _, tag = whole(http, "csv")
    for url in ("/v1/sets/1", "/v1/sets/1/card", "/v1/compare?a=1&b=2"):
        http.get(url)
    again = http.get(URL + "csv", headers={"If-None-Match": f"W/{tag}"})
    assert (again.status_code, again.content) == (304, b"")


def test_what_is_compressed_on_the_way_has_a_tag_of_no_range(http: TestClient) -> None:
    content, tag = whole(http, "jsonl")
    with http.stream("GET", URL + "jsonl", headers={"Accept-Encoding": "gzip"}) as reply:
        assert gzip.decompress(b"".join(reply.iter_raw())) == content
        assert (reply.headers["etag"], reply.headers["accept-ranges"]) == (f"W/{tag}", "none")
    weak = http.get(URL + "jsonl", headers={"Range": "bytes=5-", "If-Range": f"W/{tag}", "Accept-Encoding": "gzip"})
    assert weak.status_code == 200


def test_an_export_is_of_one_moment(http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most adverse change: behind the rows that were read, before those that were not."""
    monkeypatch.setattr("labeler.store.label_sets.scan._ROWS_AT_ONCE", 5)
    before = b"".join(encode_rows("jsonl", read_rows(store, 1), dict))
    real, overtaken = spool.Spooled.fill, threading.Event()

    def fill(self: spool.Spooled, pieces: object) -> None:
        def slowly() -> Iterator[bytes]:
            for piece in pieces():  # type: ignore[operator]
                yield piece
                if not overtaken.is_set():
                    overtaken.set()
                    store.save(1, [labeled(i, 0.25, "another text") for i in (0, 30)])

        real(self, slowly)

    monkeypatch.setattr(spool.Spooled, "fill", fill)
    content, tag = whole(http, "jsonl")
    assert overtaken.is_set()
    assert content == before
    assert whole(http, "jsonl") != (content, tag)


def test_a_label_set_that_never_rests_is_sent_without_a_tag(
    http: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = spool.Spool.get

    def get(self: spool.Spool, *rest: object) -> spool.Spooled:
        change_a_label(store)
        return real(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(spool.Spool, "get", get)
    reply = http.get(URL + "csv")
    assert reply.status_code == 200
    assert reply.text.count("\n") == 33
    assert "etag" not in reply.headers


class Breaks(httpx2.BaseTransport):
    """The service, behind a line that breaks after 1,000 bytes of an answer; `then` happens once it has broken."""

    def __init__(self, http: TestClient, then: Callable[[], None]) -> None:
        self._http, self._then, self.asked = http, then, list[httpx2.Request]()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        reply = self._http.get(
            str(request.url.raw_path, "ascii"), headers=dict(request.headers) | {"host": "127.0.0.1"}
        )
        headers = {k: v for k, v in reply.headers.items() if k != "content-length"}
        return httpx2.Response(reply.status_code, headers=headers, stream=_Broken(reply.content, self._then))


class _Broken(httpx2.SyncByteStream):
    def __init__(self, content: bytes, then: Callable[[], None]) -> None:
        self._content, self._then = content, then

    def __iter__(self) -> Iterator[bytes]:
        yield self._content[:6000]
        if len(self._content) > 6000:
            self._then()
            raise httpx2.ReadError("cut")


@pytest.mark.parametrize("changes", [False, True])
def test_the_client_goes_on_with_a_broken_download(
    http: TestClient, store: Store, tmp_path: Path, changes: bool
) -> None:
    line = Breaks(http, lambda: change_a_label(store) if changes and len(line.asked) == 1 else None)
    with Client("http://127.0.0.1", attempts=20, transport=line) as client:
        n = client.export(1, "jsonl", tmp_path / "labels.jsonl")
    content, _ = whole(http, "jsonl")
    assert (tmp_path / "labels.jsonl").read_bytes() == content
    assert len(content) == n > 6000
    again = [request.headers.get("range") for request in line.asked]
    assert again[:2] == [None, "bytes=6000-"]
    assert (again[2] == "bytes=6000-") == changes, "from the beginning, and then on from there"


def test_too_many_exports_are_refused_until_one_is_written(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_MOST_UNFINISHED", 2)
    go_on = threading.Event()

    def pieces() -> Iterator[bytes]:
        assert go_on.wait(60)
        yield b"x"

    files = http.app.state.spool  # type: ignore[attr-defined]
    waiting = [files.get(name, pieces, "key") for name in "ab"]
    refused = http.get(URL + "csv")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
    assert files.get("a", pieces, "key") is waiting[0], "what is under way already may be waited for by any number"
    go_on.set()
    while not all(file.is_finished for file in waiting):
        pass
    assert http.get(URL + "csv").status_code == 200


def test_old_downloads_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_MOST", 2)
    files = spool.Spool()
    for name in "abcd":
        made = files.get(name, lambda: iter((b"x", b"y")), "key")
        while not made.is_finished:
            pass
    assert sorted(files._files) == ["c", "d"]
    assert len(list(made._path.parent.iterdir())) == 2
    files.close()
