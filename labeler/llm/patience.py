"""Waiting for an endpoint that fails: how long, and what its `Retry-After` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite


@dataclass(frozen=True)
class Patience:
    """The limits on waiting, in seconds except the numbers of retries.

    Waits last 1, 2, 4, ... 32 seconds, unless the endpoint asks for longer ones.
    """

    timeout: float = 180.0  # of one request, from connecting to the last byte
    n_retries: int = 6  # requests after the first
    n_retries_unanswered: int = 3  # as long as the address has never answered: it may be wrong
    first_wait: float = 1.0  # doubles with every retry
    longest_wait: float = 60.0  # where the doubling ends; a Retry-After may be longer
    longest_total: float = 300.0  # all waits of one request

    def wait(self, n_failures: int, asked: float | None, jitter: float) -> float:
        """Return the seconds to wait after so many failures; `asked` by the endpoint or None, `jitter` uniform in 0..1.

        The doubling wait shrinks by up to half, so that requests that failed together do not come back together. The
        endpoint's own wait only grows, by up to the first wait.
        """
        if asked is None:
            return self._doubled(n_failures) * (1 - jitter / 2)
        return max(asked + self.first_wait * jitter, 0.0)

    def longest(self, n_failures: int, n_retries: int, wait: float, waited: float) -> float:
        """Return the longest time that all waits still take: `wait`, and those before the last of `n_retries`."""
        later = sum(self._doubled(n) for n in range(n_failures + 1, n_retries + 1))
        return min(wait + later, self.longest_total - waited)

    def _doubled(self, n_failures: int) -> float:
        return min(self.longest_wait, self.first_wait * 2.0 ** min(n_failures - 1, 60))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait that a response asks for: `retry-after-ms`, or `retry-after` in either of its forms.

    `now` in seconds since 1970. None where nothing readable is asked (RFC 9110, section 10.2.3).
    """
    for name, per_second in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / per_second
        except (KeyError, ValueError):
            continue
        if isfinite(seconds):
            return max(seconds, 0.0)
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now, 0.0)
