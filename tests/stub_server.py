"""A real HTTP server that speaks /v1/chat/completions, completions, embeddings and batches, well or badly, as a test asks.

    with StubServer(behave=lambda n, body: SERVER_ERROR if n == 1 else GOOD) as server:
        llm = OpenAILLM(server.base_url)

`behave` chooses for each request (1, 2, ... in order of arrival) how it is answered. A good answer comes from the
letter LLM: a model of simple rules that explains and simulates token detectors from the text of our prompts alone.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

import pytest

from tests.stub_batches import StubBatches

Json = dict[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered. Without a status of its own, a 200 with the letter LLM's reply, changed or not."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None  # the body of a failure
    change: Callable[[Json], Any] | None = None  # of a good completion; returns the body to send instead
    raw: str | None = None  # a body that is sent as it is
    cut: bool = False  # hang up in the middle of the body
    seconds: float = 0.0  # before the answer
    meeting: threading.Barrier | None = None  # before those seconds: the request waits until as many are here

    @property
    def paid(self) -> bool:
        return self.status == 200 and self.raw is None and not self.cut


def says(content: str | None, finish_reason: str = "stop", **message: Any) -> Behaviour:
    """A 200 whose message is this one."""

    def change(completion: Json) -> Json:
        said = {"role": "assistant", "content": content, **message}
        completion["choices"] = [{"index": 0, "finish_reason": finish_reason, "message": said}]
        return completion

    return Behaviour(change=change)


def fails(status: int, message: str = "", headers: Mapping[str, str] | None = None, **error: Any) -> Behaviour:
    return Behaviour(status, headers or {}, {"message": message, "type": None, "param": None, "code": None, **error})


def busy(retry_after: str | None = None, **headers: str) -> Behaviour:
    """A 429, with Retry-After as given and other headers by name (`retry_after_ms="20"`)."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return fails(429, "too many requests", sent | ({} if retry_after is None else {"retry-after": retry_after}))


def slow(seconds: float) -> Behaviour:
    return Behaviour(seconds=seconds)


def _without_choices(completion: Json) -> Json:
    return completion | {"choices": []}


def _cut_short(completion: Json) -> Json:
    choice = completion["choices"][0]
    choice["finish_reason"], text = "length", choice["message"]["content"]
    choice["message"]["content"] = text[: len(text) // 2]
    return completion


def _token_that_is_not_there(completion: Json) -> Json:
    message = completion["choices"][0]["message"]
    contexts = json.loads(message["content"])
    message["content"] = json.dumps({name: {**named, "nowhere": 5} for name, named in contexts.items()})
    return completion


def _one_context_short(completion: Json) -> Json:
    message = completion["choices"][0]["message"]
    message["content"] = json.dumps(dict(list(json.loads(message["content"]).items())[:-1]))
    return completion


GOOD = Behaviour()
MALFORMED = says("I think it fires on {letters, mostly")
OUT_OF_RANGE = Behaviour(change=_token_that_is_not_there)
WRONG_LENGTH = Behaviour(change=_one_context_short)
TRUNCATED = Behaviour(change=_cut_short)
REFUSAL = says(None, refusal="I cannot help with that.")
CONTENT_FILTER = says("", "content_filter")
NO_CHOICES = Behaviour(change=_without_choices)
EMPTY = says("")
NULL_CONTENT = says(None)
NOT_JSON = Behaviour(raw="<html>upstream is restarting</html>")
NOT_A_COMPLETION = Behaviour(raw='{"error": {"message": "upstream is down"}}')
CUT = Behaviour(cut=True)
SERVER_ERROR = fails(500, "internal error")
NO_QUOTA = fails(429, "You exceeded your current quota", type="insufficient_quota", code="insufficient_quota")
NO_MODEL = fails(404, "The model does not exist", code="model_not_found")


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: Json
    at: float  # time.monotonic()


class StubServer:
    """Runs on a port of its own from `with` to the end of `with`, and remembers what it was asked."""

    def __init__(self, behave: Callable[[int, Json], Behaviour] = lambda number, body: GOOD, port: int = 0) -> None:
        self.behave = behave
        self.requests: list[Request] = []
        self.n_paid = 0  # complete replies that left the server
        self.most_at_once = 0
        self._at_once = 0
        self.batches = StubBatches(self)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._http = _HTTPServer(("127.0.0.1", port), _handler_of(self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def bodies(self) -> list[Json]:
        return [r.body for r in self.requests]

    def __enter__(self) -> StubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def arrived(self, request: Request) -> Behaviour:
        with self._lock:
            self.requests.append(request)
            return self.behave(len(self.requests), request.body)

    @contextmanager
    def at_work(self, behaviour: Behaviour) -> Iterator[None]:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if behaviour.meeting is not None:
                behaviour.meeting.wait()
            self._closing.wait(behaviour.seconds)
            yield
        finally:
            with self._lock:
                self._at_once -= 1

    def paid(self) -> None:
        with self._lock:
            self.n_paid += 1


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


def _handler_of(server: StubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            if self.path in ("/v1/files", "/v1/batches"):
                self._send(*server.batches.post(self.path, self.headers["content-type"], content))
                return
            body = json.loads(content)
            behaviour = server.arrived(Request(self.path, _lower(self.headers), body, time.monotonic()))
            with server.at_work(behaviour):
                if self.path not in ANSWERS:
                    behaviour = fails(404, f"no such path: {self.path}")
                answer = answer_of(behaviour, self.path, body)
                if behaviour.paid:
                    server.paid()
            self._send(behaviour, answer)

        def do_GET(self) -> None:
            self._send(*server.batches.get(self.path))

        def _send(self, behaviour: Behaviour, answer: bytes) -> None:
            self.send_response(behaviour.status)
            self.send_header("content-type", "application/json" if behaviour.raw is None else "text/html")
            self.send_header("content-length", str(len(answer)))
            for name, value in behaviour.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if behaviour.cut else answer)
            if behaviour.cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def answer_of(behaviour: Behaviour, path: str, body: Json) -> bytes:
    if behaviour.error is not None:
        return json.dumps({"error": behaviour.error}).encode()
    if behaviour.raw is not None:
        return behaviour.raw.encode()
    answer = ANSWERS[path](body)
    return json.dumps(behaviour.change(answer) if behaviour.change else answer).encode()


def _chat(body: Json) -> Json:
    return completion_of(letter_llm("\n".join(m["content"] for m in body["messages"])), body)


def completion_of(text: str, body: Json) -> Json:
    """A chat completion. Tokens are counted as words, so that usage is a known number of the prompt."""
    words = sum(len(m["content"].split()) for m in body["messages"])
    choice: Json = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [_chat_token(t, body["top_logprobs"]) for t in TOKENS.findall(text)]}
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 0,
        "model": f"{body['model']}-2026-01-01",
        "choices": [choice],
        "usage": {
            "prompt_tokens": words,
            "completion_tokens": len(text.split()),
            "total_tokens": words + len(text.split()),
        },
    }


TOKENS = re.compile(r"\s?\S+|\s")


def _ranked(token: str, n: int) -> list[tuple[str, float]]:
    """The token itself is the likeliest, and `?1`, `?2`, ... might have been in its place."""
    return [(token, -0.25), *((f"?{i}", -2.0 - i) for i in range(1, n))][:n]


def _chat_token(token: str, n: int) -> Json:
    others = [{"token": t, "logprob": p, "bytes": None} for t, p in _ranked(token, n)]
    return {"token": token, "logprob": -0.25, "bytes": None, "top_logprobs": others}


def _text(body: Json) -> Json:
    """A text completion, with `echo` as OpenAI's first API had it, or with vLLM's `prompt_logprobs`."""
    tokens = TOKENS.findall(body["prompt"])
    written = [" the"] * body["max_tokens"]
    choice: Json = {"index": 0, "finish_reason": "length", "text": "".join(written), "logprobs": None}
    if body.get("echo"):
        n, shown = body["logprobs"], tokens + written
        choice["text"] = "".join(shown)
        choice["logprobs"] = {
            "tokens": shown,
            "token_logprobs": [None, *[-0.25] * (len(shown) - 1)],
            "top_logprobs": [None, *(dict(_ranked(t, n)) for t in shown[1:])],
            "text_offset": [len("".join(shown[:i])) for i in range(len(shown))],
        }
    elif (n := body.get("prompt_logprobs")) is not None:
        ranked = (enumerate(_ranked(t, n)) for t in tokens[1:])
        entries = [
            {str(i): {"logprob": p, "rank": i + 1, "decoded_token": t} for i, (t, p) in others} for others in ranked
        ]
        choice["prompt_logprobs"] = [None, *entries]
    usage = {"prompt_tokens": len(tokens), "completion_tokens": len(written), "total_tokens": 0}
    return {"object": "text_completion", "model": f"{body['model']}-2026-01-01", "choices": [choice], "usage": usage}


def embedding_of(text: str) -> list[float]:
    """How often each of a, b, ... h occurs."""
    return [float(text.count(c)) for c in "abcdefgh"]


def _embeddings(body: Json) -> Json:
    vectors = [embedding_of(text) for text in body["input"]]
    sent: list[Any] = vectors
    if body.get("encoding_format") == "base64":
        sent = [base64.b64encode(struct.pack("<8f", *vector)).decode() for vector in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(sent)]
    n_words = sum(len(text.split()) for text in body["input"])
    return {"object": "list", "model": body["model"], "data": data[::-1], "usage": {"prompt_tokens": n_words}}


ANSWERS: dict[str, Callable[[Json], Json]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _text,
    "/v1/embeddings": _embeddings,
}


def letter_llm(prompt: str) -> str:
    """Explains by naming the marked tokens with their mean strength, and simulates from such a label."""
    if "\nThe feature detects: " in prompt:
        return _match(prompt) if "In which contexts" in prompt else _simulate(prompt)
    if "<<" in prompt:
        return _explain(prompt)
    return "I am a letter LLM."


def _explain(prompt: str) -> str:
    strengths = defaultdict[str, list[int]](list)
    for token, strength in re.findall(r"<<([^|]+|\|)\|(\d+)>>", prompt):
        strengths[token].append(int(strength))
    often = sorted(strengths, key=lambda t: (-len(strengths[t]), t))[:5]
    return "LABEL: " + ", ".join(f"`{t}` {round(sum(strengths[t]) / len(strengths[t]))}" for t in often)


def _simulate(prompt: str) -> str:
    shown, _, label = prompt.rpartition("\nThe feature detects: ")
    strengths = {token: int(r or 10) for token, r in re.findall(r"`([^`]+)`(?: \(?(\d+))?", label.splitlines()[0])}
    reply: dict[str, dict[str, int]] = {}
    for number, lines in re.findall(r"^Context (\d+)\n(.*?)(?=\n\nContext |\n*\Z)", shown, re.MULTILINE | re.DOTALL):
        reply[number] = {token: strengths[token] for token in lines.split("\n") if strengths.get(token)}
    return json.dumps(reply, separators=(",", ":"))


def _match(prompt: str) -> str:
    """Detection and fuzzing: does a token of the label stand in the context, or where it is marked?"""
    shown, _, label = prompt.partition("Contexts:\n")[2].rpartition("\nThe feature detects: ")
    tokens = re.findall(r"`([^`]+)`", label.splitlines()[0])
    matches = [
        number
        for number, text in re.findall(r"^(\d\d) (.*)$", shown, re.MULTILINE)
        if any(token in ("".join(re.findall("<<(.*?)>>", text)) or text) for token in tokens)
    ]
    return ",".join([*matches, "0"])


@pytest.fixture
def stub_server() -> Iterator[StubServer]:
    """A server that answers well until a test sets `stub_server.behave`."""
    with StubServer() as server:
        yield server
