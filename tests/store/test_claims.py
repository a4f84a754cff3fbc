"""Claims in both databases: a feature is in one run's hands at a time, and in nobody's once that run is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from labeler.errors import StorageError, TakenOverError
from labeler.recipe import Recipe
from labeler.store import Store
from labeler.store.base.database import Database
from labeler.store.base.processes import described, is_dead, this_process
from labeler.store.jobs.blocks import Blocks
from labeler.store.jobs.claims import Claimed, Claims, RunBeat, Work
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.watch import Watch, take_back_runs
from labeler.store.tables.claims import CLAIMS, RUNS
from labeler.terms import JobKind
from tests.results import failed, labeled, manifest

WORK = Work("evidence", "recipe")
REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_feature_is_in_one_run_s_hands(store: Store) -> None:
    claims = Claims(store)
    one, two = claims.begin(), claims.begin()
    assert claims.claim(one, WORK, [3, 1, 2]) == Claimed([3, 1, 2], [], [])
    assert claims.claim(two, WORK, [2, 4]) == Claimed([4], [], [2])
    assert claims.claim(two, Work("evidence", "other"), [2]) == Claimed([2], [], []), "another label set"
    claims.release(one, WORK, [2])
    assert claims.claim(two, WORK, [1, 2]) == Claimed([2], [], [1])
    assert claims.holders(WORK, two) == {f"process {os.getpid()}": 2}
    claims.end(one)
    assert claims.claim(two, WORK, [1]) == Claimed([1], [], [])


def test_what_is_done_by_now_is_not_done_again_and_what_failed_is(store: Store) -> None:
    info = store.label_set_for(manifest(), "/evidence", Recipe())
    label_set, work = info.id, Work(info.evidence_hash, info.recipe_hash)
    claims = Claims(store)
    run = claims.begin()
    store.save(label_set, [labeled(1), failed(2)])
    assert claims.claim(run, work, [0, 1, 2]) == Claimed([0, 2], [1], [])
    with store.database.reading() as connection:
        assert set(connection.execute(select(CLAIMS.c.feature_index)).scalars()) == {0, 2}


def test_threads_that_claim_at_once_share_without_overlap(store: Store) -> None:
    claims, wanted = Claims(store), list(range(200))
    got: dict[str, list[int]] = {}

    def take() -> None:
        run = claims.begin()
        got[run] = [f for low in range(0, 200, 10) for f in claims.claim(run, WORK, wanted[low : low + 10]).ours]

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(f for features in got.values() for f in features) == wanted


def test_a_run_that_shows_no_sign_of_life_is_gone_with_all_it_had(store: Store) -> None:
    claims, watch = Claims(store), Watch[RunBeat](10.0)
    asleep, awake = claims.begin(), claims.begin()
    claims.claim(asleep, WORK, range(5))
    for now in (0.0, 9.0):
        take_back_runs(claims, watch, now)
        claims.renew(awake)
    assert claims.claim(awake, WORK, [1]).held == [1]
    take_back_runs(claims, watch, 10.0)
    assert claims.claim(awake, WORK, range(5)).ours == [0, 1, 2, 3, 4]
    assert not claims.renew(asleep)
    with pytest.raises(TakenOverError):
        claims.claim(asleep, WORK, [7])
    claims.release(asleep, WORK, range(5))
    with store.database.reading() as connection:
        assert len(connection.execute(select(CLAIMS)).all()) == 5, "what others have is not given back by it"


def test_a_sign_of_life_in_the_last_moment_counts(store: Store) -> None:
    claims = Claims(store)
    run = claims.begin()
    (seen,) = claims.beats()
    claims.renew(run)
    assert not claims.take_back(seen)
    assert claims.renew(run)


def test_a_block_that_changes_hands_frees_what_the_attempt_had_claimed(store: Store) -> None:
    claims, blocks = Claims(store), Blocks(store)
    evidence = store.add_evidence(manifest(), "/evidence")
    Jobs(store).submit(evidence, Recipe(), "0-3")
    for leave in ("give_back", "lose", "finish"):
        lease = blocks.claim(JobKind.LABEL, "w")
        assert lease is not None
        run = claims.begin(lease.block_id)
        claims.claim(run, WORK, range(4))
        blocks.lose(lease, "broke down") if leave == "lose" else getattr(blocks, leave)(lease)
        with store.database.reading() as connection:
            assert connection.execute(select(RUNS)).all() == []
            assert connection.execute(select(CLAIMS)).all() == []


def test_a_process_is_held_to_be_dead_only_where_that_is_certain() -> None:
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        name = this_process()
        machine, _, rest = name.partition("/")
        pid, _, began = rest.partition("/")
        assert not is_dead(name)
        assert not is_dead(f"{machine}/{alive.pid}/")
        assert is_dead(f"{machine}/{pid}/{int(began) - 1}"), "its number was given again"
        assert not is_dead(f"elsewhere/{pid}/{int(began) - 1}")
        os.kill(alive.pid, signal.SIGKILL)
        os.waitid(os.P_PID, alive.pid, os.WEXITED | os.WNOWAIT)
        assert is_dead(f"{machine}/{alive.pid}/1"), "nobody has buried it yet"
        assert described(name) == f"process {os.getpid()}"
        assert described("far+boot+1/7/9") == "process 7 on far"
    finally:
        alive.kill()
        alive.communicate()


def test_work_that_a_server_cuts_off_is_done_again_and_a_process_that_ends_does_not_insist(
    postgres: str,
) -> None:
    database, other = Database(postgres, patience=60.0), Database(postgres)
    n_tries = 0

    def work() -> int:
        nonlocal n_tries
        n_tries += 1
        with database.writing() as connection:
            if n_tries == 1:
                me = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
                with other.writing() as killer:
                    killer.exec_driver_sql(f"SELECT pg_terminate_backend({me})")
            return int(connection.exec_driver_sql("SELECT 7").scalar_one())

    assert (database.insist(work), n_tries) == (7, 2)
    n_tries, database.hurry = 0, lambda: True
    with pytest.raises(StorageError):
        database.insist(work)
    assert n_tries == 1
    database.close()
    other.close()
