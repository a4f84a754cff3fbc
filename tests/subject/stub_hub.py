"""A hub of data sets on this machine, as far as huggingface_hub and datasets ask one; it keeps what it was asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StubHub:
    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files  # of the data set "owner/texts"
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def stub_hub(files: dict[str, bytes]) -> Iterator[StubHub]:
    hub = StubHub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            base = "/api/datasets/owner/texts"
            if path in (base, f"{base}/revision/{COMMIT}", f"{base}/revision/main"):
                siblings = [{"rfilename": name} for name in hub.files]
                self._send(json.dumps({"id": "owner/texts", "sha": COMMIT, "siblings": siblings}).encode())
            elif path.startswith(f"{base}/tree/{COMMIT}") or path == f"{base}/paths-info/{COMMIT}":
                self._send(json.dumps(self._entries()).encode())
            elif path.startswith(f"/datasets/owner/texts/resolve/{COMMIT}/"):
                name = path.removeprefix(f"/datasets/owner/texts/resolve/{COMMIT}/")
                self._send(hub.files.get(name), {"ETag": f'"{hash(name) % 10**9}"', "X-Repo-Commit": COMMIT})
            else:
                self._send(None)

        def _entries(self) -> list[dict[str, object]]:
            return [
                {"type": "file", "path": name, "size": len(data), "oid": str(hash(name) % 10**9)}
                for name, data in hub.files.items()
            ]

        def _send(self, body: bytes | None, headers: dict[str, str] | None = None) -> None:
            status = 200 if body is not None else 404
            missing = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            self.send_response(status)
            for name, value in {**(headers or {}), **({} if body is not None else missing)}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
