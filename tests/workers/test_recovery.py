"""Who is taken for dead, and when: by silence alone, whatever any clock on a wall says."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from labeler.logs import JsonFormatter, logged_as
from labeler.store.states import Beat
from workers.recovery import Watch


def test_silence_is_measured_by_our_own_monotonic_clock() -> None:
    watch, still = Watch(10.0), Beat(1, 1, 7)
    assert watch.silent([still], now=100.0) == []
    assert watch.silent([still], now=109.9) == []
    assert watch.silent([still], now=110.0) == [still]


def test_any_sign_of_life_starts_the_time_again() -> None:
    watch = Watch(10.0)
    for beat in range(5):
        assert watch.silent([Beat(1, 1, beat)], now=9.0 * beat) == []
    assert watch.silent([Beat(1, 2, 4)], now=100.0) == [], "another attempt"
    assert watch.silent([Beat(1, 2, 4)], now=110.0) == [Beat(1, 2, 4)]


def test_what_is_finished_is_forgotten() -> None:
    watch, beat = Watch(10.0), Beat(1, 1, 1)
    watch.silent([beat], now=0.0)
    watch.silent([], now=5.0)
    assert watch.silent([beat], now=12.0) == []


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
