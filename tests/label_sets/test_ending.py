"""Ctrl-C in a run: what has arrived is kept where it can be, and the process ends where it cannot."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import StorageError
from labeler.label_sets.ending import Ending
from labeler.llm.ledger import StoredReply
from labeler.store import Store
from labeler.store.base.ledger import SqlLedger
from tests import stub_server as stub
from tests.databases import hung, stopped
from tests.stub_server import StubServer
from tests.workers.conftest import new_database, until

REPOSITORY = Path(__file__).resolve().parents[2]
REPLY = StoredReply("text", "stop", "m", 10, 2, "explain")


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_ctrl_c_waits_for_what_is_being_saved(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, ended = SqlLedger(store), list[str]()

    async def work(_llm: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        finally:
            await ledger.put("k", REPLY)
            ended.append("saved")

    with pytest.raises(KeyboardInterrupt):
        Ending(store, ledger).run(work, lambda: None)
    assert (ended, ledger.n_unkept) == (["saved"], 0)
    assert asyncio.run(ledger.get("k")) == REPLY
    assert "stopping: what has arrived is being saved" in capsys.readouterr().err
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)], (
        "nothing ends a process that goes on"
    )


def test_replies_that_cannot_be_kept_are_counted(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = SqlLedger(store)
    with store.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE llm_reply")

    async def work(_llm: object) -> None:
        outcomes = await asyncio.gather(*(ledger.put(f"k{i}", REPLY) for i in range(3)), return_exceptions=True)
        assert all(isinstance(o, Exception) for o in outcomes)
        raise StorageError("the database is gone")

    with pytest.raises(StorageError, match="is gone"):
        Ending(store, ledger).run(work, lambda: None)
    assert "3 replies that had arrived could not be kept: they will be asked for again" in capsys.readouterr().err
    assert (ledger.take_lost(), ledger.n_unkept) == (3, 0)


@pytest.mark.real
@pytest.mark.parametrize("goes_away", [stopped, hung])
def test_ctrl_c_ends_a_run_whose_database_is_away(
    postgres: str,
    postgres_server: Any,
    planted_evidence: Path,
    stub_server: StubServer,
    goes_away: Callable[..., Any],
    tmp_path: Path,
) -> None:
    stub_server.behave = lambda number, body: stub.GOOD if number <= 12 else stub.slow(2.0)
    command = [sys.executable, "-c", "from labeler.cli import main; main()", "label", str(planted_evidence)]
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": stub_server.base_url,
        "LABELER_DB": new_database(postgres),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.Popen(
        [*command, "--explainer", "openai:m"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: len(stub_server.requests) >= 14, 120)
        comes_back = goes_away(postgres_server)
        try:
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=60)
        finally:
            comes_back()
    finally:
        run.kill()
    assert run.returncode == 130, err
    assert "replies that had arrived could not be kept" in err
