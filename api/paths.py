"""Paths of this machine as others see them: relative to the data folder, or shortened to two parts.

`PathGuard` translates answers on their way out, whichever route, page or error they come from; exports and cards, which are
made in pieces or kept in files, are made of values that `Paths` has translated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The value of a field that is a path. Labels, tokens and texts of people stay as they are, also where they look like one.
_FIELD = re.compile(rb'"(?!label"|text"|comment"|token")([a-z_]+)":"(/[^"\\/]+/[^"\\]*)"')
_MESSAGE = re.compile(rb'"(detail|problem|reason|[a-z_]+_reason)":"((?:[^"\\]|\\.)*+)"')
_IN_MESSAGE = re.compile(r"(?<![\w.:~/-])/(?:[^\s/'\"`,;:()<>\\]+/)+[^\s/'\"`,;:()<>\\]*")
_JSON = ("application/json", "application/problem+json", "text/event-stream")
_PAGES = ("text/html", "text/markdown", "text/plain")


class Paths:
    def __init__(self, data: Path) -> None:
        # As it was given, too: it may lead over a link.
        self._roots = sorted({str(data.resolve()), str(data.absolute())}, key=len, reverse=True)
        home = str(Path.home())
        named = [(root, "", ".") for root in self._roots] + [(home, "~/", "~")]
        self._known = [each for root, *words in named if root != "/" for each in _instead_of(root, *words)]
        # In a page anything can stand beside anything: a folder such as /data may as well be part of a label.
        long = [(root, *words) for root, *words in named if root.count("/") > 1 or root == home != "/"]
        self._in_pages = [
            (re.compile(pattern.pattern.encode()), word.encode())
            for root, *words in long
            for pattern, word in _instead_of(root, *words)
        ]

    def shown(self, path: str) -> str:
        for root in self._roots:
            if path == root or path.startswith(f"{root}/"):
                return path[len(root) + 1 :] or "."
        return "/".join(Path(path).parts[-2:]).lstrip("/")

    def value(self, value: Any) -> Any:
        """The value, with every text in it that is an absolute path translated."""
        if isinstance(value, dict):
            return {name: self.value(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return self.shown(value) if isinstance(value, str) and _is_path(value) else value

    def message(self, text: str) -> str:
        """A message for people, with the paths in it translated."""
        for root, word in self._known:
            text = root.sub(word, text)
        return _IN_MESSAGE.sub(lambda found: self.shown(found[0]) if _is_here(found[0]) else found[0], text)

    def json(self, body: bytes) -> bytes:
        if b'"/' in body:
            body = _FIELD.sub(lambda f: b'"%b":"%b"' % (f[1], self.shown(f[2].decode()).encode()), body)
        return _MESSAGE.sub(lambda f: b'"%b":"%b"' % (f[1], self.message(f[2].decode()).encode()), body)

    def page(self, body: bytes) -> bytes:
        for root, word in self._in_pages:
            body = root.sub(word, body)
        return body


def _instead_of(root: str, below: str, itself: str) -> list[tuple[re.Pattern[str], str]]:
    """Return the replacements for a path that begins with the root, and for the root itself."""
    begin = rf"(?<![\w.~/-]){re.escape(root)}"
    return [(re.compile(rf"{begin}/", re.ASCII), below), (re.compile(rf"{begin}(?![\w-])", re.ASCII), itself)]


def _is_path(text: str) -> bool:
    return text.startswith("/") and "/" in text[1:] and "\n" not in text


def _is_here(path: str) -> bool:
    """Say whether a text begins like a path of this machine, and not like an address of this service."""
    return _is_folder("/" + path.split("/")[1])


@lru_cache(maxsize=1000)
def _is_folder(path: str) -> bool:
    return Path(path).is_dir()


class PathGuard:
    def __init__(self, app: ASGIApp, paths: Paths) -> None:
        self.app, self.paths = app, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, _Translated(send, self.paths) if scope["type"] == "http" else send)


class _Translated:
    """Holds the head of an answer back until the first piece of its body is there, whose length may change."""

    def __init__(self, send: Send, paths: Paths) -> None:
        self._send, self._paths = send, paths
        self._translate: Callable[[bytes], bytes] | None = None
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._translate = self._for(message)
            self._start = message
            return
        if message["type"] == "http.response.body" and self._translate is not None:
            message = {**message, "body": self._translate(message.get("body", b""))}
            if self._start is not None and not message.get("more_body"):
                _set_length(self._start, len(message["body"]))
        if self._start is not None:
            start, self._start = self._start, None
            await self._send(start)
        await self._send(message)

    def _for(self, start: Message) -> Callable[[bytes], bytes] | None:
        headers = Headers(raw=start["headers"])
        if (
            "content-disposition" in headers
        ):  # an export: its pieces end anywhere, and parts of it are asked for by bytes
            return None
        kind = headers.get("content-type", "").partition(";")[0]
        return self._paths.json if kind in _JSON else self._paths.page if kind in _PAGES else None


def _set_length(start: Message, n: int) -> None:
    headers = MutableHeaders(raw=start["headers"])
    if "content-length" in headers:
        headers["content-length"] = str(n)
    start["headers"] = headers.raw
