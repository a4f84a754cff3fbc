"""Counters: what several processes count adds up, and a database that is away loses nothing of it."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

import pytest
from sqlalchemy import Connection

from labeler.errors import StorageError
from labeler.llm.exchange import Exchange
from labeler.records import Usage
from labeler.store import Store
from labeler.store.base.counters import Tally, read_counters


def counted(store: Store) -> dict[str, dict[tuple[str, ...], float]]:
    with store.database.reading() as connection:
        return read_counters(connection)


def test_requests_are_counted_by_model_time_and_failure(store: Store) -> None:
    tally = Tally(store.database)
    for seconds in (0.05, 0.1, 0.11, 500.0):
        tally.exchange(Exchange("a", seconds, Usage(1, 10, 2, 0.5)))
    tally.exchange(Exchange('b "x"', 1.0, Usage(1, 10, 2, None)))
    tally.exchange(Exchange("a", 30.0, None, "timeout"))
    tally.keep()
    found = counted(store)
    assert found["llm_requests"] == {("a",): 5, ('b "x"',): 1}
    assert found["llm_failures"] == {("a", "timeout"): 1}
    assert found["llm_seconds_bucket"] == {("a", "0"): 2, ("a", "1"): 1, ("a", "10"): 1, ('b "x"', "3"): 1}
    assert found["llm_seconds_sum"][("a",)] == pytest.approx(500.26)
    assert found["llm_tokens"][("a", "in")] == 40
    assert found["llm_cost_usd"] == {("a",): 2.0, ('b "x"',): 0.0}
    assert found["llm_unpriced"] == {("a",): 0, ('b "x"',): 1}


def test_all_that_is_counted_at_once_adds_up(store: Store) -> None:
    def count(model: str) -> None:
        tally = Tally(store.database)
        for i in range(20):
            for name in (model, "all", "zero")[:: 1 if i % 2 else -1]:
                tally.exchange(Exchange(name, 0.2, Usage(1, 1, 1, 0.0)))
            tally.keep()

    threads = [threading.Thread(target=count, args=(model,)) for model in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(store)["llm_requests"] == {("all",): 60, ("zero",): 60, ("x",): 20, ("y",): 20, ("z",): 20}


def test_what_could_not_be_written_is_written_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(store.database)

    def away() -> AbstractContextManager[Connection]:
        raise StorageError("away")

    with monkeypatch.context() as while_away:
        while_away.setattr(store.database, "writing", away)
        tally.exchange(Exchange("a", 0.2, Usage(1, 1, 1, 0.0)))
        tally.keep()
    tally.exchange(Exchange("a", 0.2, Usage(1, 1, 1, 0.0)))
    tally.keep()
    tally.keep()
    assert counted(store)["llm_requests"] == {("a",): 2}
