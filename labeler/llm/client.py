"""The client of an OpenAI-compatible endpoint: a hosted API, vLLM, llama.cpp, Ollama.

    ledger ── has it? ──► reply
      │ no
    slot ──► breaker, budget, pace, guard ──► request ──► kept in the ledger ──► read
                   ▲                            │
                   └──────────── waits ─────────┘  408 409 425 429 5xx, timeouts, cut connections, bodies that are no answer

The cost of a request is known when its reply arrives. The endpoint may also bill a request that timed out or was cut
off; it does not tell, so that cost is in no `Usage`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from labeler.errors import EndpointError, LLMError
from labeler.llm.breaker import Breaker
from labeler.llm.budget import Budget
from labeler.llm.endpoint import TryAgainError
from labeler.llm.estimate import Estimate
from labeler.llm.exchange import Exchange, OnRetry, Retry, Watch, no_retry_told
from labeler.llm.guard import ask_guard
from labeler.llm.ledger import Ledger, MemoryLedger, StoredReply, ledger_key
from labeler.llm.pace import Pace
from labeler.llm.patience import Patience
from labeler.llm.prices import Prices
from labeler.llm.prompt import Answering, AnyPrompt, AnyReply
from labeler.llm.rates import Rates
from labeler.llm.request_format import reply_of
from labeler.llm.sender import Sender
from labeler.records import Usage
from labeler.settings import Settings

T = TypeVar("T")
_Bought = tuple[StoredReply, "asyncio.Task[None]"]  # a reply, and the task that saves it


class OpenAILLM(Answering):
    """A client with a ledger, a budget, retries and limits. Make one in the process and event loop that use it, after
    any fork. Close it with `aclose` or `async with`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        ledger: Ledger | None = None,
        prices: Prices | None = None,
        budget: Budget | None = None,
        pace: Pace | None = None,
        breaker: Breaker | None = None,
        concurrency: int = 16,
        patience: Patience | None = None,
        http_client: Any = None,  # an httpx2.AsyncClient; for a proxy, or a test
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        watch: Watch | None = None,  # called for every request
        on_retry: OnRetry = no_retry_told,  # called before each wait for an endpoint that fails
    ) -> None:
        self.patience = patience or Patience()
        self._breaker = breaker or Breaker()
        self.sender = Sender(
            base_url,
            api_key,
            self.patience.timeout,
            reached=self._breaker.reached,
            http_client=http_client,
            clock=clock,
        )
        self.spent = Usage()  # what this client itself has bought
        self.ledger: Ledger = MemoryLedger() if ledger is None else ledger
        self._prices = prices or Prices()
        self.budget = budget or Budget()
        self._pace = pace or Pace(sleep=sleep)
        self._estimate = Estimate()
        self._sleep, self._watch, self.on_retry = sleep, watch, on_retry
        self._slots = asyncio.Semaphore(concurrency)
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._in_flight: set[asyncio.Task[Any]] = set()

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        ledger: Ledger,
        concurrency: int = 16,
        budget: Budget | None = None,
        models: Iterable[str] = (),
        watch: Watch | None = None,
        on_retry: OnRetry = no_retry_told,
    ) -> OpenAILLM:
        """Make a client from the settings. `models` are those whose prices a budget in dollars must know."""
        prices = Prices.load(settings.prices)
        (budget or Budget()).check_prices(prices, models)
        rates = Rates.load(settings.requests_per_minute, settings.tokens_per_minute, settings.limits)
        return cls(
            settings.base_url,
            settings.api_key,
            ledger=ledger,
            prices=prices,
            budget=budget,
            pace=Pace(rates, settings.redis),
            concurrency=concurrency,
            watch=watch,
            on_retry=on_retry,
        )

    async def aclose(self) -> None:
        """Wait for replies in flight, since they are paid for, and close the connections."""
        await self.landed()
        await self._pace.aclose()
        await self.sender.aclose()

    async def landed(self) -> None:
        """Wait until all replies in flight are in the ledger, including those for other callers."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    async def __aenter__(self) -> OpenAILLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def ask(self, prompt: AnyPrompt) -> AnyReply:
        """Return the reply from the ledger, or buy it and save it there before anything reads it.

        Raises ConfigurationError at once where asking again cannot help, as for prompt log-probabilities that the
        server does not give. Raises BudgetError and EndpointDownError, which end a run as well, and EndpointError when
        patience has run out. Raises RefusedError, and UnreadableReply for a reply that is empty or cut off.
        """
        key = ledger_key(prompt)
        # Two equal prompts at the same time are one purchase.
        async with self._asking.setdefault(key, asyncio.Lock()):
            stored = await self.ledger.get(key)
            from_ledger = stored is not None
            if stored is None:
                stored = await self._buy(prompt, key)
        return reply_of(stored, prompt, self.usage_of(stored, prompt), from_ledger=from_ledger)

    def usage_of(self, stored: StoredReply, prompt: AnyPrompt) -> Usage:
        # No reply is without a prompt: 0 tokens means that the endpoint did not count, and then the cost is unknown.
        if not stored.tokens_in:
            return Usage(1, stored.tokens_in, stored.tokens_out, None)
        return self._usage(prompt, stored.tokens_in, stored.tokens_out, stored.price_factor)

    def _usage(self, prompt: AnyPrompt, tokens_in: int, tokens_out: int, price_factor: float = 1.0) -> Usage:
        cost = self._prices.cost(prompt.model, tokens_in, tokens_out)
        return Usage(1, tokens_in, tokens_out, None if cost is None else cost * price_factor)

    def expected(self, prompt: AnyPrompt, price_factor: float = 1.0) -> Usage:
        """Estimate the usage of a request from earlier replies."""
        return self._usage(prompt, *self._estimate.tokens(prompt), price_factor)

    async def _buy(self, prompt: AnyPrompt, key: str) -> StoredReply:
        """Ask until a reply arrives or patience ends. A waiting request keeps its slot, so that a busy endpoint is
        asked less.

        It keeps the slot until its reply is saved: a kill never loses more replies than requests may be in flight.
        """
        waited, n_failures, was_told = 0.0, 0, False
        async with self._slots:
            while True:
                self._breaker.check(prompt.model)
                try:
                    stored, keeping = await self._try(prompt, key, was_told)
                    await asyncio.shield(keeping)  # nothing reads a reply that a kill would lose
                    return stored
                except TryAgainError as failure:
                    n_failures += 1
                    wait = self.patience.wait(n_failures, failure.asked, random.random())
                    n_retries = self._n_retries(prompt.model)
                    if n_failures > n_retries or waited + wait > self.patience.longest_total:
                        last_words = self.sender.without_key(_last_words(failure, n_failures, waited, wait))
                        raise self._breaker.failed(prompt.model, EndpointError(last_words)) from None
                    longest = self.patience.longest(n_failures, n_retries, wait, waited)
                    self.on_retry(Retry(self.sender.without_key(str(failure)), wait, longest))
                    if was_told := failure.asked is not None:
                        await self._pace.told_to_wait(prompt.model, failure.asked or 0.0)
                except LLMError as error:
                    raise self._breaker.failed(prompt.model, error) from None
                waited += wait
                await self._sleep(wait)

    def _n_retries(self, model: str) -> int:
        """Return the number of retries; an address that has never answered may be wrong, and gets fewer."""
        most = self.patience.n_retries
        return most if self._breaker.ever_reached(model) else min(most, self.patience.n_retries_unanswered)

    async def _try(self, prompt: AnyPrompt, key: str, has_paused: bool) -> _Bought:
        """Send one request as soon as budget and pace allow it.

        Its reply is waited for even when the caller no longer waits.
        """
        expected = self.expected(prompt)
        await self.budget.reserve(expected)
        stored: StoredReply | None = None
        try:
            await self._pace.enter(prompt.model, expected.tokens_in + expected.tokens_out, has_paused=has_paused)
            await ask_guard()
            bought = await asyncio.shield(self._start(self._send(prompt, key)))
            stored = bought[0]
            return bought
        finally:
            self.budget.settle(expected, None if stored is None else self.usage_of(stored, prompt))

    async def _send(self, prompt: AnyPrompt, key: str) -> _Bought:
        began = time.perf_counter()
        try:
            stored = await self.sender.send(prompt)
        except (TryAgainError, LLMError) as error:
            self._tell(Exchange(prompt.model, time.perf_counter() - began, None, error.kind))
            raise
        keeping = self._start(self.ledger.put(key, stored))
        self._breaker.answered(prompt.model)
        self._estimate.learn(prompt, stored)
        usage = self.usage_of(stored, prompt)
        self.spent += usage
        self._tell(Exchange(prompt.model, time.perf_counter() - began, usage))
        return stored, keeping

    def _tell(self, exchange: Exchange) -> None:
        if self._watch is not None:
            self._watch(exchange)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that continues when its caller is canceled, and that `aclose` waits for."""
        task = asyncio.ensure_future(work)
        self._in_flight.add(task)
        task.add_done_callback(self._landed)
        return task

    def _landed(self, task: asyncio.Task[Any]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled():
            task.exception()  # read the exception, since the caller may have gone


def _last_words(failure: TryAgainError, n_requests: int, waited: float, wait: float) -> str:
    tried = f"gave up after {n_requests} requests, {waited:.0f} s of waiting" if n_requests > 1 else "not tried again"
    longer = f", though it asks for {wait:.0f} s more" if failure.asked is not None and wait > 1 else ""
    return f"{failure} [{tried}{longer}]"
