"""Shared fixtures. The planted world is written once a session; tests that change files take a copy."""

from __future__ import annotations

import atexit
import gc
import os
import signal

# Before torch loads: spinning OpenMP threads starve everything else that runs beside the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No test may reach for a hub; without this each attempt waits for its retries.
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest

from tests.commands import run
from tests.databases import migrated_file, migrated_template, postgres, postgres_server, store, url
from tests.planted import Planted, plant
from tests.stub_server import stub_server

__all__ = [
    "migrated_file",
    "migrated_template",
    "planted",
    "planted_evidence",
    "postgres",
    "postgres_server",
    "run",
    "store",
    "stub_server",
    "url",
]


# Files that start many processes or wait for them. They come first, so that none of them is left to run alone at the end.
_LONG = ("tests/workers/", "tests/pages/browser/", "tests/test_cli.py", "tests/label_sets/", "tests/neuronpedia/")


def pytest_configure() -> None:
    gc.set_threshold(5000, 20, 20)
    # A shell starts what it runs in the background with Ctrl-C ignored, and every process that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # To look again and again through all that is imported would take a quarter of the CPU time of the tests.
    gc.freeze()
    atexit.register(gc.unfreeze)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name each failure when it happens: a run that is ended from outside has then said what failed."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when}): {report.longreprtext.strip().splitlines()[-1]}", flush=True)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="session")
def planted_evidence(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evidence of the planted SAE, gathered by the real pass."""
    from tests.gathering import gather

    return gather(planted, tmp_path_factory.mktemp("evidence") / "all")
