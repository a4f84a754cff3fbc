"""Access to the service: API keys with scopes and rates; without keys, only this machine."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits import parse
from limits.errors import StorageError as LimitStorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import RateLimiter, SlidingWindowCounterRateLimiter
from starlette.concurrency import run_in_threadpool

from api.problems import RequestProblem, answer_to
from labeler.errors import InputError, LabelerError
from labeler.store import Store
from labeler.store.people.keys import ApiKey, any_key, verify_key
from labeler.terms import Scope

log = logging.getLogger(__name__)
# Headers that a proxy adds for those it asks for; what speaks HTTP/1.0 today is one, too.
_FORWARDED = re.compile(
    r"via|forwarded|.*forwarded[-_].*|(x-)?(real|remote|client|cluster|proxyuser|original|coming|host)[-_]?(ip|addr|host|port)"
    r"|.*-(client|connecting|real|remote|source)-ip|(cf|proxy|akamai|fly|ngrok|tailscale|fastly|incap)-.*|cdn-loop|front-end-https"
    r"|max-forwards|x-(forwarded|original|originating|envoy|amzn|amz|azure|arr|appengine|akamai|vercel|varnish|proxy|nf|sucuri|ingress"
    r"|gateway|tyk|kong|rewrite|traefik)(-.*)?|x-(scheme|proto|protocol|url-scheme|ssl|host|request-start|cloud-trace-context)"
)
bearer = HTTPBearer(auto_error=False, description="`labeler keys create NAME` makes a key.")
COOKIE = "labeler_key"  # in which a browser keeps its key
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class Caller:
    id: str  # of the key
    name: str
    scope: Scope


class Access:
    """Keys and their rates. Rates are shared through Redis where there is one."""

    def __init__(self, store: Store, redis: str | None = None) -> None:
        self._store = store
        self._keys_exist = False
        self._alone = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: RateLimiter = (
            SlidingWindowCounterRateLimiter(storage_from_string(redis, wrap_exceptions=True)) if redis else self._alone
        )

    def caller(self, request: Request, given: HTTPAuthorizationCredentials | None, needed: Scope) -> Caller:
        """Check the caller's key, scope and rate. Raises RequestProblem: 401, 403 or 429."""
        key = self.key_of(request, given)
        if key is None:
            return Caller("local", "local", Scope.ADMIN)
        request.state.caller = key.id  # for the log
        self._within_rate(key)
        if not key.scope.includes(needed):
            raise RequestProblem(403, f"this key may {key.scope}, and this needs `{needed}`")
        return Caller(key.id, key.name, key.scope)

    def key_of(self, request: Request, given: HTTPAuthorizationCredentials | None) -> ApiKey | None:
        """Return the given key, or None for this machine while no key exists. Raises RequestProblem: 401 or 403."""
        if not self._has_keys():
            if not _is_from_here(request):
                raise RequestProblem(
                    403,
                    "no API key was made yet, so only this machine itself may ask, and not through a proxy; "
                    "on it, run `labeler keys create NAME`",
                )
            return None
        key = verify_key(self._store, given.credentials) if given is not None else None
        if key is None:
            detail = (
                "give a valid API key: Authorization: Bearer KEY"
                if given is None
                else "this key is not known, or revoked"
            )
            raise RequestProblem(401, detail, {"WWW-Authenticate": "Bearer"})
        return key

    @property
    def keys_were_seen(self) -> bool:
        return self._keys_exist

    def _has_keys(self) -> bool:
        # Rows are never deleted, so that what was seen once stays true.
        self._keys_exist = self._keys_exist or any_key(self._store)
        return self._keys_exist

    def _within_rate(self, key: ApiKey) -> None:
        rate, limiter = parse(key.rate), self._shared
        try:
            allowed = limiter.hit(rate, "key", key.id)
        except LimitStorageError:
            log.warning("Redis does not answer; rates are counted only in this process")
            limiter = self._alone
            allowed = limiter.hit(rate, "key", key.id)
        if not allowed:
            seconds = max(1, round(limiter.get_window_stats(rate, "key", key.id).reset_time - time.time()))
            raise RequestProblem(429, f"this key may ask {key.rate}; wait", {"Retry-After": str(seconds)})


def access_of(request: Request) -> Access:
    access: Access = request.app.state.access
    return access


def _is_from_here(request: Request) -> bool:
    """Say whether a connection comes from this machine, and no proxy seems to have forwarded it."""
    if request.client is None or request.scope["http_version"] == "1.0":
        return False
    return is_loopback(request.client.host) and not any(map(_FORWARDED.fullmatch, request.headers.keys()))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(store: Store, host: str) -> None:
    """Raise InputError for an address that others can reach, while there is no key."""
    if not is_loopback(host) and not any_key(store):
        raise InputError(
            f"--host {host}: others can reach this address, and there is no API key: make one with `labeler keys create NAME`, "
            "or listen on 127.0.0.1"
        )


def _needs(scope: Scope) -> Callable[..., Caller]:
    def check(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Caller:
        # By its cookie a browser may read here, what the pages link to; what changes something needs the header.
        by_cookie = of_cookie(request) if request.method in _SAFE else None
        return access_of(request).caller(request, given or by_cookie, scope)

    return check


async def refusal(request: Request) -> Response | None:
    """Return the refusal of a request without a valid key, before its body is read. Scopes are checked later."""
    access, given = access_of(request), _any_key_of(request)
    try:
        if given is not None or not access.keys_were_seen:
            await run_in_threadpool(access.key_of, request, given)
        else:  # at once: many of these must not stand in line before those that have a key
            access.key_of(request, None)
    except (RequestProblem, LabelerError) as error:
        return answer_to(error)
    return None


def _any_key_of(request: Request) -> HTTPAuthorizationCredentials | None:
    """Return the key from the first place that has one. Each route decides which places it accepts."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return HTTPAuthorizationCredentials(scheme=kind, credentials=key.strip())
    return of_cookie(request)


def of_cookie(request: Request) -> HTTPAuthorizationCredentials | None:
    key = request.cookies.get(COOKIE)
    return None if key is None else HTTPAuthorizationCredentials(scheme="Bearer", credentials=key)


Reader = Annotated[Caller, Depends(_needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(_needs(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(_needs(Scope.ADMIN))]
