"""The journal of batches in progress, kept in the database."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import select

from labeler.llm.batch import BatchRecord
from labeler.store.base.store import Store
from labeler.store.tables.label_sets import BATCHES, now

_COLUMNS = [BATCHES.c[name] for name in BatchRecord.__dataclass_fields__]


class SqlJournal:
    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, record: BatchRecord) -> None:
        insert = self._store._insert(BATCHES).values(**asdict(record), created_at=now())
        changed = {"batch_id": record.batch_id, "state": record.state}
        with self._store.database.writing() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=changed))

    def open(self, endpoint: str) -> list[BatchRecord]:
        wanted = select(*_COLUMNS).where(BATCHES.c.endpoint == endpoint, BATCHES.c.state != "collected")
        with self._store.database.reading() as connection:
            rows = connection.execute(wanted.order_by(BATCHES.c.created_at)).mappings().all()
        return [BatchRecord(**row) for row in rows]
