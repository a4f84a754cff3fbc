"""Everything a worker process keeps between tasks: the database, one event loop, one LLM client, open evidence.

They are made at first use, and again after a fork: neither connections nor event loops survive one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from labeler.errors import BudgetError
from labeler.evidence.store import EvidenceFolder
from labeler.recipe import Recipe
from labeler.settings import Settings
from labeler.steps.null import NullLabels
from labeler.store import Store, open_store
from labeler.store.base.counters import Tally
from labeler.store.base.ledger import SqlLedger
from labeler.store.jobs.blocks import Blocks
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.progress import progress_of
from labeler.store.jobs.states import Lease
from workers.hold import GRACE, seconds_of_shutdown

if TYPE_CHECKING:
    from labeler.llm.budget import Budget
    from labeler.llm.client import OpenAILLM

_DATABASE_PATIENCE = 120.0  # seconds: a database server may restart under a worker


class Resources:
    """Everything one worker process keeps open: store, event loop, LLM client, loaded models."""

    def __init__(self, settings: Settings, *, forked: bool = False) -> None:
        self.settings = settings
        # The parent of a forked process has migrated the tables; and a forked process forks no more.
        self.store: Store = open_store(
            settings.database, patience=_DATABASE_PATIENCE, migrate=not forked, pooled=forked
        )
        # Until then the server may come back: saving the results is worth the wait.
        self.store.database.hurry = lambda: seconds_of_shutdown() > GRACE
        self.ledger = SqlLedger(self.store)
        self.blocks, self.jobs = Blocks(self.store), Jobs(self.store)
        self.tally = Tally(self.store.database)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.loop = asyncio.new_event_loop()
        self._client: OpenAILLM | None = None
        self._limited: OpenAILLM | None = None  # for the last job with a budget
        self.folder = lru_cache(maxsize=4)(EvidenceFolder)
        self.recipe = lru_cache(maxsize=16)(self._recipe)
        self.null = lru_cache(maxsize=4)(self._null)

    def evidence_of(self, lease: Lease) -> EvidenceFolder:
        return self.folder(Path(self.store.label_set(lease.label_set_id or 0).evidence_path))

    def _recipe(self, label_set_id: int) -> Recipe:
        return Recipe.from_dict(self.store.recipe_of(label_set_id))

    def _null(self, folder: EvidenceFolder, label_set_id: int) -> NullLabels:
        return NullLabels(folder, self.recipe(label_set_id))

    def llm(self, lease: Lease, recipe: Recipe) -> OpenAILLM | None:
        """Return the client of this process; for a job with a budget, one limited to what is left."""
        if recipe.explainer.kind == recipe.simulator.kind == "lookup":
            return None
        if lease.budget_usd is None and lease.budget_tokens is None:
            self._client = self._client or self._new_client(None, recipe)
            return self._client
        if self._limited is not None:
            self.loop.run_until_complete(self._limited.aclose())
        self._limited = self._new_client(self._left(lease), recipe)
        return self._limited

    def _left(self, lease: Lease) -> Budget:
        from labeler.llm.budget import Budget

        spent = progress_of(self.store, lease.job_id)
        # A block with such replies kept to its part of the budget by estimates, which are stored nowhere.
        unpriced = lease.budget_usd is not None and spent.cost_usd is None
        if unpriced or (lease.budget_tokens is not None and spent.requests > 0 and spent.tokens_in == 0):
            raise BudgetError(
                "the endpoint has sent replies without a token count, so that it is unknown what is left of the budget of "
                "this job; what was done is kept, and a new job without that budget can continue"
            )
        usd = None if lease.budget_usd is None else lease.budget_usd - (spent.cost_usd or 0.0)
        tokens = None if lease.budget_tokens is None else lease.budget_tokens - spent.tokens_in - spent.tokens_out
        if (usd is not None and usd <= 0) or (tokens is not None and tokens <= 0):
            raise BudgetError("the budget of this job is spent; what was done is kept, and a new job can continue")
        return Budget(usd, tokens)

    def _new_client(self, budget: Budget | None, recipe: Recipe) -> OpenAILLM:
        from labeler.llm.client import OpenAILLM

        named = [recipe.explainer.model, recipe.simulator.model, *(scorer.model for scorer in recipe.scorers)]
        models = {model for model in named if model is not None}
        return OpenAILLM.from_settings(
            self.settings,
            ledger=self.ledger,
            concurrency=self.settings.concurrency,
            budget=budget,
            models=models,
            watch=self.tally.exchange,
        )

    def hang_up(self) -> None:
        """Close the client once the replies in flight have come. The next block has a client that remembers no
        failures.
        """
        for client in (self._client, self._limited):
            if client is not None:
                self.loop.run_until_complete(client.aclose())
        self._client = self._limited = None

    def close(self) -> None:
        self.hang_up()
        self.loop.close()
        self.tally.keep()
        self.store.close()


_here: tuple[int, Resources] | None = None
# The clients of a parent process: collecting them here would close the connections that it uses.
_of_parents: list[Resources] = []


def here() -> Resources:
    """Return the resources of this process."""
    global _here
    if _here is None or _here[0] != os.getpid():
        if _here is not None:
            _of_parents.append(_here[1])
        _here = (os.getpid(), Resources(Settings.from_environment(), forked=_here is not None))
    return _here[1]


def n_unkept_here() -> int:
    """Count the replies that have arrived in this process and are not durable yet."""
    return _here[1].ledger.n_unkept if _here is not None and _here[0] == os.getpid() else 0


def close_here() -> None:
    global _here
    if _here is not None and _here[0] == os.getpid():
        _here[1].close()
        _here = None
