"""Counts of all that has happened, added up over all processes of the service, for `/metrics`.

a worker: Tally.add ... Tally.add ──keep, now and then, one statement──► table `counter` ──read_counters──► the API
"""

from __future__ import annotations

import bisect
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table, func, select

from labeler.errors import LabelerError
from labeler.store.base.database import Database, insert_into
from labeler.store.tables.jobs import BLOCKS
from labeler.store.tables.service import COUNTERS

if TYPE_CHECKING:
    from labeler.llm.exchange import Exchange

Labels = tuple[str, ...]
Counts = Mapping[tuple[str, Labels], float]  # increments, by name and labels

LLM_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # upper ends of buckets; the last one has none
_KEEP_SECONDS = 5.0

log = logging.getLogger(__name__)


def add_up(connection: Connection, counts: Counts) -> None:
    """Add these counts to the stored ones, within the caller's transaction."""
    if not counts:
        return
    # In order, as in every writer: two that meet wait for each other, and never deadlock.
    rows = [
        {"name": name, "label": json.dumps(labels), "value": float(value)}
        for (name, labels), value in sorted(counts.items())
    ]
    insert = insert_into(COUNTERS, connection.dialect.name)
    more = {"value": COUNTERS.c.value + insert.excluded.value}
    connection.execute(insert.values(rows).on_conflict_do_update(index_elements=["name", "label"], set_=more))


def read_counters(connection: Connection) -> dict[str, dict[Labels, float]]:
    """Return the sums so far by labels, by name."""
    found: dict[str, dict[Labels, float]] = {}
    for name, label, value in connection.execute(select(COUNTERS.c.name, COUNTERS.c.label, COUNTERS.c.value)):
        found.setdefault(name, {})[tuple(json.loads(label))] = value
    return found


class Tally:
    """The counts of one process that are not yet in the database. A killed process loses only these figures."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._lock = threading.Lock()
        self._kept_at = time.monotonic()

    def exchange(self, exchange: Exchange) -> None:
        """Count a request to an LLM."""
        model, usage = exchange.model, exchange.usage
        with self._lock:
            self._counts["llm_requests", (model,)] += 1
            if usage is None:
                self._counts["llm_failures", (model, exchange.failure or "other")] += 1
                return
            bucket = bisect.bisect_left(LLM_SECONDS, exchange.seconds)
            self._counts["llm_seconds_bucket", (model, str(bucket))] += 1
            # The counter holds numbers of any kind; its type says int, as `Counter` is mostly used.
            more: dict[tuple[str, Labels], float] = {
                ("llm_seconds_sum", (model,)): exchange.seconds,
                ("llm_tokens", (model, "in")): usage.tokens_in,
                ("llm_tokens", (model, "out")): usage.tokens_out,
                ("llm_cost_usd", (model,)): usage.cost_usd or 0.0,
                ("llm_unpriced", (model,)): usage.cost_usd is None,
            }
            self._counts.update(more)

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._kept_at >= _KEEP_SECONDS

    def keep(self) -> None:
        """Write the counts to the database; where it does not answer, they wait for the next call."""
        self._kept_at = time.monotonic()
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            with self._database.writing() as connection:
                add_up(connection, counts)
        except LabelerError as error:
            log.warning("counters: %s", error)
            with self._lock:
                self._counts.update(counts)


def count_by_state(connection: Connection, table: Table) -> dict[str, int]:
    """Count the rows of a table of jobs or blocks by their state."""
    counts = connection.execute(select(table.c.state, func.count()).group_by(table.c.state)).all()
    return dict(map(tuple, counts))


def sum_of_blocks(connection: Connection, names: Sequence[str]) -> dict[str, float]:
    """Add up columns of all blocks, by their names."""
    sums = connection.execute(select(*(func.coalesce(func.sum(BLOCKS.c[n]), 0) for n in names))).one()
    return dict(zip(names, map(float, sums), strict=True))
