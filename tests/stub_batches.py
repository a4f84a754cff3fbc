"""The Batch API of the stub server: files, batches that take a few looks to end, and their results.

Each line of a batch is answered as the request would be that it stands for; see `StubServer.behave`.
"""

from __future__ import annotations

import json
import threading
import time
from email.message import Message
from email.parser import BytesParser
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.stub_server import Behaviour, StubServer

Json = dict[str, Any]
Answer = tuple["Behaviour", bytes]


class StubBatches:
    def __init__(self, server: StubServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Json] = {}
        self.n_looks = 2  # until a batch has ended
        self.max_requests = 50_000
        self.ends_as = "completed"  # or "failed", "expired", "cancelled"
        self.n_done: int | None = None  # lines answered before it ends; None: all
        self.deaf = False  # hangs up after it has made a batch

    def post(self, path: str, content_type: str, content: bytes) -> Answer:
        with self._lock:
            if path == "/v1/files":
                return _good(self._keep(_file_of(content_type, content)))
            made = self._make(json.loads(content))
        if self.deaf:
            from tests.stub_server import CUT

            return CUT, json.dumps(made).encode()
        return _good(made)

    def get(self, path: str) -> Answer:
        with self._lock:
            path, _, query = path.partition("?")
            match path.removeprefix("/v1/").split("/"):
                case ["files", name, "content"] if name in self.files:
                    return _good(None)[0], self.files[name]
                case ["batches"]:
                    return _good(self._page(query))
                case ["batches", name] if name in self.batches:
                    self._look(self.batches[name])
                    return _good(self.batches[name])
        from tests.stub_server import answer_of, fails

        missing = fails(404, f"nothing at {path}")
        return missing, answer_of(missing, path, {})

    def _page(self, query: str) -> Json:
        newest = list(reversed(self.batches.values()))
        after = next((word.partition("=")[2] for word in query.split("&") if word.startswith("after=")), None)
        start = 0 if after is None else [b["id"] for b in newest].index(after) + 1
        return {"object": "list", "data": newest[start : start + 2], "has_more": start + 2 < len(newest)}

    def _keep(self, content: bytes) -> Json:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "purpose": "batch",
            "created_at": 0,
            "filename": "batch.jsonl",
            "status": "processed",
        }

    def _make(self, wanted: Json) -> Json:
        lines = self.files[wanted["input_file_id"]].splitlines()
        assert wanted["completion_window"] == "24h"
        assert all(json.loads(line)["url"] == wanted["endpoint"] for line in lines)
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "status": "validating",
            "created_at": 0,
            "completion_window": "24h",
            "looks": 0,
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            **wanted,
        }
        if len(lines) > self.max_requests:
            batch["status"] = "failed"
            batch["errors"] = {"data": [{"code": "too_many_tasks", "message": f"{len(lines)} requests are too many"}]}
        self.batches[batch["id"]] = batch
        return batch

    def _look(self, batch: Json) -> None:
        batch["looks"] += 1
        if batch["status"] == "validating" and batch["looks"] < self.n_looks:
            batch["status"] = "in_progress"
        elif batch["status"] in ("validating", "in_progress") and batch["looks"] >= self.n_looks:
            self._end(batch)

    def _end(self, batch: Json) -> None:
        batch["status"] = self.ends_as
        if self.ends_as == "failed":
            batch["errors"] = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}
            return
        good, bad = [], []
        for number, line in enumerate(self.files[batch["input_file_id"]].splitlines()):
            asked = json.loads(line)
            if self.n_done is not None and number >= self.n_done:
                error = {"code": "batch_expired", "message": "This request could not be executed in time."}
                bad.append({"id": "r", "custom_id": asked["custom_id"], "response": None, "error": error})
                continue
            status, body = self._answer(asked)
            result = {
                "id": "r",
                "custom_id": asked["custom_id"],
                "error": None,
                "response": {"status_code": status, "request_id": "q", "body": body},
            }
            (good if status == 200 else bad).append(result)
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        # Results come in no order that anybody promises.
        for name, results in (("output_file_id", good[::-1]), ("error_file_id", bad)):
            if results:
                batch[name] = self._keep("\n".join(map(json.dumps, results)).encode())["id"]

    def _answer(self, asked: Json) -> tuple[int, Any]:
        from tests.stub_server import Request, answer_of

        behaviour = self._server.arrived(Request(asked["url"], {"batch": "1"}, asked["body"], time.monotonic()))
        if behaviour.status == 200 and not behaviour.paid:
            # What breaks a connection breaks none here: the endpoint says so on the line.
            return 502, {"error": {"message": "bad gateway"}}
        if behaviour.paid:
            self._server.paid()
        return behaviour.status, json.loads(answer_of(behaviour, asked["url"], asked["body"]))


def _good(answer: Json | None) -> Answer:
    from tests.stub_server import GOOD

    return GOOD, json.dumps(answer).encode()


def _file_of(content_type: str, content: bytes) -> bytes:
    """The `file` part of a multipart form; its `purpose` must be batch."""
    form: Message = BytesParser().parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + content)
    parts = form.get_payload()
    assert isinstance(parts, list)
    by_name = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}
    assert by_name["purpose"] == b"batch"
    file = by_name["file"]
    assert isinstance(file, bytes)
    return file
