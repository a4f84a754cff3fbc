"""Requests for a part, or on a condition (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import math
import re

from fastapi import Request, Response

from api.problems import RequestProblem
from api.seats import SeatedResponse, Seats
from api.spool import Spooled

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def precondition(request: Request, tag: str) -> Response | None:
    """The 304 that `If-None-Match` asks for. Raises RequestProblem (412) where `If-Match` names another version."""
    if (wanted := request.headers.get("if-match")) is not None and not {tag, "*"} & _tags(wanted):
        raise RequestProblem(412, "it has changed since: ask for it without If-Match")
    known = {t.removeprefix("W/") for t in _tags(request.headers.get("if-none-match", ""))}
    if {tag, "*"} & known:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "private, no-cache"})
    return None


def _tags(header: str) -> set[str]:
    return {tag.strip() for tag in header.split(",")}


async def ranged(
    request: Request, key: str, file: Spooled, tag: str, headers: dict[str, str], media_type: str
) -> Response:
    """The file, or the one range of it that is asked for. Raises RequestProblem (416) for one behind its end.

    A range of an older version (`If-Range`), several ranges, and what is no range of bytes get the whole, as RFC 9110 says.
    """
    seats: Seats = request.app.state.downloads
    headers = {**headers, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    is_same = request.headers.get("if-range", tag) == tag
    if asked is None or not any(asked.groups()) or not is_same:
        # What is compressed on the way is the same text in other bytes, of which no range is given.
        plain = "gzip" not in request.headers.get("accept-encoding", "") or media_type.endswith("parquet")
        headers |= {"ETag": tag} if plain else {"ETag": f"W/{tag}", "Accept-Ranges": "none"}
        return SeatedResponse(file.read(), seats, key, headers=headers, media_type=media_type)
    n = await file.wait_for(math.inf)
    start, end = _bounds(asked[1], asked[2], n)
    if start >= end:
        raise RequestProblem(416, f"there are {n:,} bytes", {"Content-Range": f"bytes */{n}"})
    headers |= {"ETag": tag, "Content-Range": f"bytes {start}-{end - 1}/{n}", "Content-Length": str(end - start)}
    return SeatedResponse(file.read(start, end), seats, key, status_code=206, headers=headers, media_type=media_type)


def _bounds(first: str, last: str, n: int) -> tuple[int, int]:
    """[start, end) of `first-last`, `first-` or `-length`."""
    if not first:
        return max(0, n - int(last)), n
    return int(first), min(n, int(last) + 1) if last else n
