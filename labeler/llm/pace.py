"""Limits on requests and tokens per minute, and pauses that the endpoint asks for, by model.

With a Redis, all processes that use it share the counts and the pauses; without one, each process has its own.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from labeler.errors import StorageError
from labeler.llm.rates import Rates

_LOOK_AGAIN = 1.0  # seconds at most between two checks of a limit that is reached
_SHARED_FROM = 1.0  # seconds: pauses that are worth sharing with other processes


class Pace:
    """The pace of one client; make it in the event loop that uses it."""

    def __init__(
        self,
        rates: Rates | None = None,
        redis: str | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rates = rates or Rates()
        self._redis = redis
        self._sleep = sleep
        self._until: dict[str, float] = {}  # model -> when its pause ends, on the monotonic clock
        self._limiter: Any = None

    async def enter(self, model: str, tokens: int, *, has_paused: bool = False) -> None:
        """Wait until a request of so many tokens may be sent; one with `has_paused` has obeyed its own pause already.

        Raises StorageError where the Redis cannot be reached.
        """
        if not has_paused:
            await self._pause_over(model)
        rate = self._rates.of(model)
        if rate.requests_per_minute is not None:
            await self._admitted("requests", model, rate.requests_per_minute, 1)
        if rate.tokens_per_minute is not None:
            # A request that is larger than the limit would wait forever: it takes the whole minute.
            cost = min(max(tokens, 1), rate.tokens_per_minute)
            await self._admitted("tokens", model, rate.tokens_per_minute, cost)

    async def told_to_wait(self, model: str, seconds: float) -> None:
        """Pause all of the model's requests, because the endpoint asked one of them to wait."""
        self._until[model] = max(self._until.get(model, 0.0), time.monotonic() + seconds)
        if self._redis is not None and seconds >= _SHARED_FROM:
            storage, key = self._limits().storage, _pause_key(model)
            with self._clear_errors():
                await storage.clear(key)
                await storage.incr(key, math.ceil(seconds))

    async def aclose(self) -> None:
        if self._redis is not None and self._limiter is not None:
            await self._limiter.storage.bridge.get_connection().aclose()

    async def _pause_over(self, model: str) -> None:
        waited_for = 0.0
        while (until := max(self._until.get(model, 0.0), await self._shared_until(model))) > waited_for:
            waited_for = until
            if (seconds := until - time.monotonic()) > 0:
                await self._sleep(seconds)

    async def _shared_until(self, model: str) -> float:
        if self._redis is None:
            return 0.0
        with self._clear_errors():
            left = await self._limits().storage.get_expiry(_pause_key(model)) - time.time()
        return time.monotonic() + left if left > 0.05 else 0.0

    async def _admitted(self, what: str, model: str, per_minute: int, cost: int) -> None:
        from limits import RateLimitItemPerMinute

        item = RateLimitItemPerMinute(per_minute)
        while True:
            with self._clear_errors():
                if await self._limits().hit(item, what, model, cost=cost):
                    return
            # Half a second apart on average, so that waiting requests do not all check at once.
            await self._sleep(_LOOK_AGAIN * random.uniform(0.05, 1.0))

    def _limits(self) -> Any:
        if self._limiter is None:
            # Sliding counters cost the same for a request of 10,000 tokens as for one of 1.
            from limits.aio.strategies import SlidingWindowCounterRateLimiter

            self._limiter = SlidingWindowCounterRateLimiter(self._storage())
        return self._limiter

    def _storage(self) -> Any:
        from limits.aio import storage

        if self._redis is None:
            return storage.MemoryStorage()
        # A socket's address as the queue's library spells it, or as Redis' own does.
        url = re.sub(r"^(redis\+socket|unix)://", "redis+unix://", self._redis)
        return storage.RedisStorage(f"async+{url}", implementation="redispy", key_prefix="labeler-llm")

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        if self._redis is None:
            yield
            return
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            raise StorageError(f"the Redis that LLM limits are shared through cannot be used: {error}") from error


def _pause_key(model: str) -> str:
    return f"pause/{model}"
