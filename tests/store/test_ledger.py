"""The ledger in both databases: what was paid for is kept, whatever becomes of those who bought it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from labeler.llm.ledger import StoredReply
from labeler.store import Store, open_store
from labeler.store.base.database import Database
from labeler.store.base.ledger import SqlLedger

REPOSITORY = Path(__file__).resolve().parents[2]
REPLY = StoredReply("text ⏎ \n", "stop", "m", 10, 2, "explain")


def read(url: str) -> StoredReply | None:
    store = open_store(url)
    kept = asyncio.run(SqlLedger(store).get("k"))
    store.close()
    return kept


def test_the_ledger_keeps_the_first_reply(store: Store) -> None:
    async def run() -> None:
        ledger = SqlLedger(store)
        assert await ledger.get("k") is None
        await ledger.put("k", REPLY)
        await ledger.put("k", StoredReply("other", "stop", "m", 1, 1, "explain"))
        assert await ledger.get("k") == REPLY

    asyncio.run(run())


@pytest.mark.parametrize("detail", [[["a", -0.5, [["a", -0.5], ["b", -1.5]]]], ["AACAPw=="], None])
def test_details_and_prices_are_kept(store: Store, detail: object) -> None:
    reply = StoredReply("", "stop", "m", 1, 0, "embed", detail, 0.5)

    async def run() -> StoredReply | None:
        await SqlLedger(store).put("k", reply)
        return await SqlLedger(store).get("k")

    assert asyncio.run(run()) == reply


def test_replies_that_arrive_together_are_all_kept(store: Store) -> None:
    replies = {f"k{i}": StoredReply(str(i), "stop", "m", i, 1, "explain") for i in range(1200)}

    async def run() -> list[StoredReply | None]:
        ledger = SqlLedger(store)
        await asyncio.gather(*(ledger.put(k, r) for k, r in replies.items()), ledger.put("k7", REPLY))
        return await asyncio.gather(*(ledger.get(k) for k in [*replies, "none"]))

    assert asyncio.run(run()) == [*replies.values(), None]


def test_replies_are_written_in_the_order_of_their_keys(store: Store) -> None:
    """So that two writers with the same replies never hold what the other one waits for."""

    async def run() -> None:
        ledger = SqlLedger(store)
        # The first one goes alone, and the others gather meanwhile.
        await asyncio.gather(*(ledger.put(key, REPLY) for key in ("m", "z", "b", "y", "a")))

    asyncio.run(run())
    order = "ctid" if store.database.dialect == "postgresql" else "rowid"
    with store.database.reading() as connection:
        written = connection.execute(text(f"SELECT key FROM llm_reply ORDER BY {order}")).scalars().all()
    assert written == ["m", "a", "b", "y", "z"]


def test_a_reply_is_kept_though_its_buyer_is_cancelled(store: Store) -> None:
    async def run() -> None:
        ledger = SqlLedger(store)
        buyers = [asyncio.ensure_future(ledger.put(f"k{i}", REPLY)) for i in range(20)]
        await asyncio.sleep(0)
        for buyer in buyers:
            buyer.cancel()
        outcomes = await asyncio.gather(*buyers, return_exceptions=True)
        assert all(isinstance(o, asyncio.CancelledError) for o in outcomes)
        assert await asyncio.gather(*(ledger.get(f"k{i}") for i in range(20))) == [REPLY] * 20

    asyncio.run(run())


def test_a_loop_that_ends_leaves_nothing_half_done(store: Store) -> None:
    ledger = SqlLedger(store)

    async def leave() -> None:
        asyncio.ensure_future(ledger.put("a", REPLY))  # noqa: RUF006 - the loop ends under it
        asyncio.ensure_future(ledger.put("b", REPLY))  # noqa: RUF006
        await asyncio.sleep(0)

    async def read() -> list[StoredReply | None]:
        return await asyncio.gather(ledger.get("a"), ledger.get("b"))

    asyncio.run(leave())
    assert asyncio.run(read()) == [REPLY, REPLY]


_PUT_AND_DIE = """
import asyncio, os, sys
from labeler.llm.ledger import StoredReply
from labeler.store import open_store
from labeler.store.base.ledger import SqlLedger
asyncio.run(SqlLedger(open_store(sys.argv[1])).put("k", StoredReply("paid", "stop", "m", 1, 1, "explain")))
os.kill(os.getpid(), 9)
"""


def test_what_was_put_survives_a_kill_at_once(url: str) -> None:
    died = subprocess.run([sys.executable, "-c", _PUT_AND_DIE, url], cwd=REPOSITORY, env={**os.environ})
    assert died.returncode == -signal.SIGKILL
    kept = read(url)
    assert kept is not None
    assert kept.text == "paid"


def test_a_ledger_of_the_first_version_keeps_its_worth(url: str) -> None:
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(REPOSITORY / "labeler/store/migrations"))
    config.set_main_option("path_separator", "os")
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    with database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO llm_reply (key, text, finish_reason, model, tokens_in, tokens_out, purpose, created_at) "
                "VALUES ('k', 'text ⏎ \n', 'stop', 'm', 10, 2, 'explain', '2026-01-01 00:00:00')"
            )
        )
    database.close()
    assert read(url) == REPLY
