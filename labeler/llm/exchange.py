"""A request to an endpoint, as it is reported to those that count requests, and a failure that is tried again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from labeler.records import Usage


@dataclass(frozen=True)
class Exchange:
    model: str
    seconds: float  # until the reply, or until it was clear that none comes
    usage: Usage | None  # None where no reply came
    failure: str | None = None  # its kind, such as "timeout"; None where a reply came


Watch = Callable[[Exchange], None]


@dataclass(frozen=True)
class Retry:
    """A request that failed and is sent again."""

    why: str
    wait: float  # seconds until the next attempt
    longest: float  # seconds of waiting, this wait included, before the request is given up


OnRetry = Callable[[Retry], None]


def no_retry_told(_retry: Retry) -> None:
    pass
