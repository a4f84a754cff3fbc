"""Budgets: no request is sent that could exceed one, counted with those still in progress."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable

from labeler.errors import BudgetError, InputError
from labeler.llm.prices import Prices
from labeler.records import Usage


class Budget:
    """A run's limit in US dollars and in tokens (in and out together); None is no limit.

    Replies from the ledger cost nothing here: the run that bought them paid for them.
    """

    def __init__(self, usd: float | None = None, tokens: int | None = None) -> None:
        for name, value in (("--budget-usd", usd), ("--budget-tokens", tokens)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"{name} {value:g}: a budget is a number above 0; `lookup` labels cost nothing and need none"
                )
        self._limits = (math.inf if usd is None else usd, math.inf if tokens is None else float(tokens))
        self._spent = (0.0, 0.0)
        self._n_under_way, self._under_way = 0, (0.0, 0.0)
        self._settled = asyncio.Event()
        self.waits = True  # False where requests in progress settle tomorrow, as in a batch

    def check_prices(self, prices: Prices, models: Iterable[str]) -> None:
        """Raises InputError where dollars are limited and a model's price is unknown: then no one could count them."""
        unknown = sorted({m for m in models if prices.cost(m, 0, 0) is None})
        if unknown and self._limits[0] < math.inf:
            raise InputError(
                f"--budget-usd: the price of {', '.join(unknown)} is not known; add it to a price table and name that in "
                "LABELER_PRICES, or set --budget-tokens instead"
            )

    async def reserve(self, expected: Usage) -> None:
        """Reserve what a request is expected to cost, and wait for others to settle where that decides.

        Raises BudgetError when the request does not fit into what is left.
        """
        while not self._fits(expected):
            if self._n_under_way == 0 or not self.waits:
                raise BudgetError(self._too_little(expected))
            self._settled.clear()
            await self._settled.wait()
        self._n_under_way += 1
        self._under_way = _sum(self._under_way, _cost(expected))

    def settle(self, expected: Usage, bought: Usage | None) -> None:
        """Replace the amount that was reserved for a request by its cost; None: it brought nothing."""
        self._n_under_way -= 1
        self._under_way = _sum(self._under_way, _cost(expected), -1.0) if self._n_under_way else (0.0, 0.0)
        if bought is not None:
            # An endpoint that counts no tokens is assumed to have used what we expected.
            self._spent = _sum(self._spent, _cost(bought if bought.tokens_in else expected))
        self._settled.set()

    def _fits(self, expected: Usage) -> bool:
        wanted = _sum(_sum(self._spent, self._under_way), _cost(expected))
        return all(w <= limit for w, limit in zip(wanted, self._limits, strict=True))

    def _too_little(self, expected: Usage) -> str:
        (usd, tokens), (usd_limit, token_limit), (usd_next, tokens_next) = self._spent, self._limits, _cost(expected)
        if usd + usd_next > usd_limit:
            spent = f"USD {usd:.4f} of {usd_limit:g} are spent, and the next request may cost {usd_next:.4f}"
        else:
            spent = f"{tokens:,.0f} of {token_limit:,.0f} tokens are spent, and the next request may take {tokens_next:,.0f}"
        return f"the budget ends here: {spent}; all that was done is kept, and the same command with another budget continues"


def _cost(usage: Usage) -> tuple[float, float]:
    return usage.cost_usd or 0.0, float(usage.tokens_in + usage.tokens_out)


def _sum(a: tuple[float, float], b: tuple[float, float], sign: float = 1.0) -> tuple[float, float]:
    return a[0] + sign * b[0], a[1] + sign * b[1]
