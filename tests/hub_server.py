"""A hub on 127.0.0.1: the part of its API that huggingface_hub calls to list and download files, and a record of what was asked for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Repositories as folders `OWNER--REPO` below `folder`; all have the one revision `main`."""

    folder: Path
    url: str = ""
    page: int = 1_000  # files in one answer of a list
    downloaded: list[str] = field(default_factory=list)  # files whose content was asked for, whole or in part
    ranges: list[tuple[str, int]] = field(default_factory=list)  # files of which a part was asked for, and its bytes
    refused: dict[str, tuple[int, str]] = field(
        default_factory=dict
    )  # repository -> status and error code of its files

    def files(self, repository: str) -> dict[str, Path]:
        folder = self.folder / repository.replace("/", "--")
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path for path in found}


@contextmanager
def hub_at(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)

    class Handler(_Handler):
        served = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def connect(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub ask this hub, with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._api(f"{parts[2]}/{parts[3]}", parts[4:])
        else:
            self._file(f"{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))

    def _api(self, repository: str, rest: list[str]) -> None:
        files = self.served.files(repository)
        if not files:
            return self._error(401, "RepoNotFound")
        if rest[1:2] and rest[1] not in ("main", COMMIT):
            return self._error(404, "RevisionNotFound")
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "oid": _etag(path), "size": path.stat().st_size, "path": name}
                for name, path in files.items()
            ]
            first = int(dict(parse_qsl(urlsplit(self.path).query)).get("cursor", 0))
            headers = {"Content-Type": "application/json"}
            if (after := first + self.served.page) < len(tree):
                address = f"{self.served.url}{urlsplit(self.path).path}?recursive=true&cursor={after}"
                headers["Link"] = f'<{address}>; rel="next"'
            return self._answer(200, json.dumps(tree[first:after]).encode(), headers)
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        return self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _file(self, repository: str, revision: str, name: str) -> None:
        if refused := self.served.refused.get(repository):
            return self._error(*refused)
        path = self.served.files(repository).get(name)
        if path is None or revision not in ("main", COMMIT):
            return self._error(404, "EntryNotFound")
        data, status = path.read_bytes(), 200
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if (wanted := self.headers.get("Range")) and self.command == "GET":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            whole = len(data)
            data, status = data[int(first) : int(last or whole - 1) + 1], 206
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(data) - 1}/{whole}"
            self.served.ranges.append((name, len(data)))
        elif self.command == "GET":
            self.served.downloaded.append(name)
        return self._answer(status, data, headers)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
