"""The ledger of LLM replies in the database: durable when `put` returns, and shared by all users of the database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import select

from labeler.llm.ledger import StoredReply
from labeler.store.base.coalesce import WriteCoalescer
from labeler.store.base.store import Store
from labeler.store.tables.label_sets import REPLIES, now

_NAMES = tuple(StoredReply.__dataclass_fields__)
_COLUMNS = [REPLIES.c[name] for name in ("key", *_NAMES)]
_AT_ONCE = 500


class SqlLedger:
    """A ledger for hundreds of requests in flight: calls that coincide share one query, or one commit.

    A reply that finds no commit in progress is committed at once; those that come during a commit share the next one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._got = WriteCoalescer(lambda keys: store.database.insist(lambda: self._select(keys)), _AT_ONCE)
        self._put = WriteCoalescer(self._keep, _AT_ONCE)
        self._n_on_their_way, self._n_lost = 0, 0
        self._lock = threading.Lock()

    async def get(self, key: str) -> StoredReply | None:
        reply: StoredReply | None = await self._got(key)
        return reply

    async def put(self, key: str, reply: StoredReply) -> None:
        self._count(1)
        await self._put((key, reply))

    @property
    def n_unkept(self) -> int:
        """Count the replies that have arrived and are not durable.

        They are still being written, or an error lost them.
        """
        with self._lock:
            return self._n_on_their_way + self._n_lost

    def take_lost(self) -> int:
        """Return the number of replies that could not be kept since the last call."""
        with self._lock:
            n, self._n_lost = self._n_lost, 0
        return n

    def _count(self, arrived: int, lost: int = 0) -> None:
        with self._lock:
            self._n_on_their_way += arrived
            self._n_lost += lost

    def _keep(self, replies: Sequence[tuple[str, StoredReply]]) -> list[None]:
        lost = len(replies)
        try:
            self._store.database.insist(lambda: self._insert(replies))
            lost = 0
        finally:
            self._count(-len(replies), lost)
        return [None] * len(replies)

    def _select(self, keys: Sequence[str]) -> list[StoredReply | None]:
        with self._store.database.reading() as connection:
            rows = connection.execute(select(*_COLUMNS).where(REPLIES.c.key.in_(keys))).all()
        replies = {key: StoredReply(*values) for key, *values in rows}
        return [replies.get(key) for key in keys]

    def _insert(self, replies: Sequence[tuple[str, StoredReply]]) -> None:
        insert = self._store._insert(REPLIES).on_conflict_do_nothing(index_elements=["key"])
        # In the order of keys, as in every writer: two that meet wait for each other, and never deadlock.
        rows = [_row(key, reply) for key, reply in sorted(replies, key=itemgetter(0))]
        with self._store.database.writing() as connection:
            connection.execute(insert, rows)


def _row(key: str, reply: StoredReply) -> dict[str, Any]:
    return {"key": key, **{name: getattr(reply, name) for name in _NAMES}, "created_at": now()}
