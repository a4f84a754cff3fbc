"""The meaning of an endpoint's refusals: an error that a retry cannot fix, or a reason to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from labeler.errors import ConfigurationError, EndpointError, InputError, LLMError, RefusedError

_TRY_AGAIN = {408, 409, 425, 429}  # and every 5xx
_NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NO_MODEL = {"model_not_found", "invalid_model"}
_POLICY = {"content_filter", "content_policy_violation", "invalid_prompt"}


class TryAgainError(Exception):
    """A failure that may pass. `asked` is how many seconds the endpoint wants to be left in peace, if it says so.

    `kind` is a stable word for counting, as those of labeler.errors are.
    """

    def __init__(self, what: str, asked: float | None = None, *, kind: str = "unreadable") -> None:
        super().__init__(what)
        self.asked, self.kind = asked, kind


@dataclass(frozen=True)
class Problem:
    """A 4xx or 5xx, as an HTTP response or a line of a batch reports it."""

    status: int
    message: str  # the endpoint's own words, on one line
    code: str | None = None
    type: str | None = None
    param: str | None = None

    @classmethod
    def of(cls, status: int, body: Any, text: str = "") -> Problem:
        """Read the body of the failure: {"error": {...}}, its inner part, or any text that a proxy has sent."""
        error = body["error"] if isinstance(body, dict) and "error" in body else body
        fields: Mapping[str, Any] = error if isinstance(error, dict) else {}
        said = fields.get("message") or fields.get("detail") or error or text
        words = (fields.get(name) for name in ("code", "type", "param"))
        return cls(status, " ".join(str(said).split())[:300], *(None if w is None else str(w) for w in words))

    @property
    def names(self) -> str:
        """Return the text in which a refused parameter may be named; empty where no parameter was refused."""
        return f"{self.param} {self.message}" if self.status in (400, 422) else ""


def check_base_url(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"base URL {shown(base_url)!r} is not an http(s) address: write it as the endpoint's documentation does, "
            "such as http://127.0.0.1:8000/v1"
        )


def is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def shown(base_url: str) -> str:
    """Return the URL in printable form: without user, password, query and fragment, any of which may hold a secret."""
    parts = urlsplit(base_url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def error_of(problem: Problem, said: str, model: str, asked: float | None = None) -> LLMError | TryAgainError:
    """Turn a problem into the error that it means; `said` is the endpoint's message, without secrets."""
    if problem.code in _NO_MONEY or problem.type in _NO_MONEY or problem.status == 402:
        return ConfigurationError(f"{said} (the account has no credit left: add some, or use another key)")
    if problem.status in (401, 403):
        return ConfigurationError(f"{said} (check OPENAI_API_KEY, and that it may use model {model!r})")
    if problem.status == 404 or problem.code in _NO_MODEL or problem.param == "model":
        return ConfigurationError(f"{said} (check the model's name {model!r}, and the base URL: most end in /v1)")
    if problem.code in _POLICY:
        return RefusedError(said)
    if problem.status in _TRY_AGAIN or problem.status >= 500:
        return TryAgainError(said, asked, kind="rate limit" if problem.status == 429 else "server")
    return EndpointError(said)
