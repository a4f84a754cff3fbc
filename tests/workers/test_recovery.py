"""Who is taken for dead, and when: by silence alone, whatever any clock on a wall says."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from labeler.evidence.store import EvidenceFolder
from labeler.logs import JsonFormatter, logged_as
from labeler.recipe import Recipe
from labeler.store import open_store
from labeler.store.jobs.blocks import LOST_AT_MOST, Blocks
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.progress import progress_of
from labeler.store.jobs.states import Heartbeat
from labeler.store.jobs.watch import Watch
from labeler.terms import JobKind
from tests.results import failed, labeled
from workers.recovery import set_aside


def test_silence_is_measured_by_our_own_monotonic_clock() -> None:
    watch, still = Watch(10.0), Heartbeat(1, 1, 7)
    assert watch.silent([still], now=100.0) == []
    assert watch.silent([still], now=109.9) == []
    assert watch.silent([still], now=110.0) == [still]


def test_any_sign_of_life_starts_the_time_again() -> None:
    watch = Watch(10.0)
    for beat in range(5):
        assert watch.silent([Heartbeat(1, 1, beat)], now=9.0 * beat) == []
    assert watch.silent([Heartbeat(1, 2, 4)], now=100.0) == [], "another attempt"
    assert watch.silent([Heartbeat(1, 2, 4)], now=110.0) == [Heartbeat(1, 2, 4)]


def test_what_is_finished_is_forgotten() -> None:
    watch, beat = Watch(10.0), Heartbeat(1, 1, 1)
    watch.silent([beat], now=0.0)
    watch.silent([], now=5.0)
    assert watch.silent([beat], now=12.0) == []


def test_what_had_failed_before_its_block_was_lost_keeps_its_reason_and_cost(
    planted_evidence: Path, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "labeler.db"))
    jobs, blocks = Jobs(store), Blocks(store)
    evidence = store.add_evidence(EvidenceFolder(planted_evidence).manifest, str(planted_evidence))
    job = jobs.submit(evidence, Recipe(), "0-2")
    for attempt in range(LOST_AT_MOST):
        lease = blocks.claim(JobKind.LABEL, "w")
        assert lease is not None
        if attempt == 0:
            blocks.save(lease, [failed(1), labeled(2)])
        blocks.lose(lease, "broke down")
    for lease, reason in blocks.to_set_aside():
        set_aside(store, lease, reason)
    rows = {row["feature_index"]: (row["state"], row["reason"], row["requests"]) for row in store.rows(1)}
    lost = "lost: broke down, three times without progress"
    assert rows == {0: ("failed", lost, 0), 1: ("failed", "refused: no", 1), 2: ("labeled", None, 2)}
    assert progress_of(store, job.id).counts == {"labeled": 1, "silent": 0, "rare": 0, "failed": 2, "pending": 0}
    store.close()


def test_what_a_worker_logs_says_of_which_block(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("workers.tasks")
    log.addHandler(handler)
    try:
        with logged_as(job=3, block=7):
            log.warning("given back (%s)", "told to")
        log.warning("later")
    finally:
        log.removeHandler(handler)
    inside, outside = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (inside["job"], inside["block"], inside["message"]) == (3, 7, "given back (told to)")
    assert "job" not in outside
