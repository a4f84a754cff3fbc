"""The ledger of LLM replies in the database: durable when `put` returns, shared by all who use the database."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import select

from labeler.llm.ledger import StoredReply
from labeler.store.store import Store
from labeler.store.tables import REPLIES, now
from labeler.store.together import Together

_NAMES = tuple(StoredReply.__dataclass_fields__)
_COLUMNS = [REPLIES.c[name] for name in ("key", *_NAMES)]
_AT_ONCE = 500


class SqlLedger:
    """Requests in flight come and go by the hundred: those that meet share one query, or one commit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._got = Together(self._select, _AT_ONCE)
        self._put = Together(self._insert, _AT_ONCE)

    async def get(self, key: str) -> StoredReply | None:
        return await self._got(key)

    async def put(self, key: str, reply: StoredReply) -> None:
        await self._put((key, reply))

    def _select(self, keys: Sequence[str]) -> list[StoredReply | None]:
        with self._store.database.reading() as connection:
            rows = connection.execute(select(*_COLUMNS).where(REPLIES.c.key.in_(keys))).all()
        replies = {key: StoredReply(*values) for key, *values in rows}
        return [replies.get(key) for key in keys]

    def _insert(self, replies: Sequence[tuple[str, StoredReply]]) -> list[None]:
        insert = self._store._insert(REPLIES).on_conflict_do_nothing(index_elements=["key"])
        # In the order of keys, as all do it: two that meet wait for each other, and never both.
        rows = [_row(key, reply) for key, reply in sorted(replies, key=itemgetter(0))]
        with self._store.database.writing() as connection:
            connection.execute(insert, rows)
        return [None] * len(replies)


def _row(key: str, reply: StoredReply) -> dict[str, Any]:
    return {"key": key, **{name: getattr(reply, name) for name in _NAMES}, "created_at": now()}
