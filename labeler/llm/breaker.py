"""A circuit breaker: after failures it stops all requests, until a single probe shows that the endpoint works again.

closed ──a revoked key, a spent quota; or failure after failure──► open ──a pause──► one probe ──answered──► closed
                                                                    ▲                   │
                                                                    └──────failed───────┘
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from labeler.errors import ConfigurationError, EndpointDownError, EndpointError, LLMError


@dataclass
class _Circuit:
    n_failures: int = 0  # requests in a row that failed for good
    reached: bool = False  # the address has answered, with success or failure
    reason: ConfigurationError | None = None  # why the circuit is open
    closed_until: float = 0.0  # when requests may pass again
    pause: float = 0.0


class Breaker:
    """Stops requests to an endpoint that keeps failing. Each model has its own circuit. Times in seconds."""

    def __init__(
        self,
        n_failures: int = 5,
        *,
        first_pause: float = 30.0,
        longest_pause: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._n_failures = n_failures
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._clock = clock
        self._circuits: defaultdict[str, _Circuit] = defaultdict(_Circuit)

    def check(self, model: str) -> None:
        """Call this before each request. Raises the reason while the circuit is open; after the pause one request may
        pass.
        """
        circuit = self._circuits[model]
        if circuit.reason is None:
            return
        if self._clock() < circuit.closed_until:
            raise _again(circuit.reason)
        circuit.closed_until = self._clock() + circuit.pause

    def ever_reached(self, model: str) -> bool:
        return self._circuits[model].reached

    def reached(self, model: str) -> None:
        self._circuits[model].reached = True

    def answered(self, model: str) -> None:
        self._circuits[model] = _Circuit(reached=True)

    def failed(self, model: str, error: LLMError) -> LLMError:
        """Return the error to raise for a request that failed for good.

        That is `error`, or the circuit's own once it is open.
        """
        circuit = self._circuits[model]
        if isinstance(error, ConfigurationError):
            self._open(circuit, error)
        elif isinstance(error, EndpointError):
            circuit.n_failures += 1
            # An address that has never answered may be wrong: one round of patience is enough to tell.
            if circuit.n_failures >= self._n_failures or not circuit.reached:
                self._open(circuit, _down(model, circuit, error))
        return error if circuit.reason is None else _again(circuit.reason)

    def _open(self, circuit: _Circuit, reason: ConfigurationError) -> None:
        circuit.reason = reason
        circuit.pause = min(self._longest_pause, max(self._first_pause, 2 * circuit.pause))
        circuit.closed_until = self._clock() + circuit.pause


def _down(model: str, circuit: _Circuit, error: EndpointError) -> EndpointDownError:
    if not circuit.reached:
        return EndpointDownError(str(error))
    return EndpointDownError(f"the last {circuit.n_failures} requests for {model!r} failed, the last with: {error}")


def _again(error: ConfigurationError) -> ConfigurationError:
    """Make a fresh copy: an exception that is raised again and again collects the tracebacks of all its callers."""
    return type(error)(str(error))
