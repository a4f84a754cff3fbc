"""A service over a small world, as people see it: in process, and live in a browser.

Label set 1 is by look-up, set 2 by the letter LLM over HTTP with its replies in the ledger, set 3 holds texts that try
to be more than text.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.server import Server, ServerConfig
from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.missing import label_missing
from labeler.llm.client import OpenAILLM
from labeler.recipe import ContextsConfig, Recipe
from labeler.records import Label
from labeler.settings import Settings
from labeler.store import open_store
from labeler.store.base.ledger import SqlLedger
from tests.planted import N_FEATURES
from tests.results import failed, labeled, silent
from tests.service import data, settings, store
from tests.stub_server import StubServer
from tests.waiting import HANGS

__all__ = ["data", "http", "settings", "site", "store", "world"]

LETTERS = replace(Recipe.from_names("openai:letters"), contexts=ContextsConfig(held_out_sampled=5))
HOSTILE = Recipe.from_names("openai:hostile")
HOSTILE_TEXTS = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\"'><svg onload=window.hacked=1>",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "</title></textarea></style><b>bold</b>",
    "javascript:window.hacked=1",
    "&lt;b&gt; & <i>",
)
SAME_ORIGIN = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
HTML = {"Accept": "text/html"}


@pytest.fixture(scope="session")
def world(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder."""
    data = tmp_path_factory.mktemp("pages")
    shutil.copytree(planted_evidence, data / "evidence")
    store, folder = open_store(str(data / "labeler.db")), EvidenceFolder(data / "evidence")

    async def label() -> None:
        looked_up = store.label_set_for(folder.manifest, str(folder.folder), Recipe())
        await label_missing(folder, range(N_FEATURES), Recipe(), None, store, looked_up)
        in_letters = store.label_set_for(folder.manifest, str(folder.folder), LETTERS)
        with StubServer() as server:
            async with OpenAILLM(server.base_url, ledger=SqlLedger(store)) as llm:
                await label_missing(folder, range(12), LETTERS, llm, store, in_letters)

    asyncio.run(label())
    hostile = store.label_set_for(folder.manifest, str(folder.folder), HOSTILE)
    results = [
        replace(labeled(i, 0.1 * i), label=Label(text, "openai:hostile")) for i, text in enumerate(HOSTILE_TEXTS)
    ]
    store.save(
        hostile.id, [*results, labeled(8, None), silent(9), failed(10, "<script>window.hacked = 1</script>: no")]
    )
    store.close()
    return data


@pytest.fixture
def http(settings: Settings) -> Iterator[TestClient]:
    """The service, asked from this machine by something that shows pages."""
    app = create_app(settings)
    with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000), headers=HTML) as client:
        yield client


class LiveServer:
    """The service in a thread, at an address of its own."""

    def __init__(self, settings: Settings) -> None:
        self._server = Server(ServerConfig(create_app(settings), "127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + HANGS
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(HANGS)


@pytest.fixture(scope="session")
def site(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a live server over a copy of the world, for tests that change nothing but reviews."""
    data = tmp_path_factory.mktemp("site") / "data"
    shutil.copytree(world, data)
    with LiveServer(Settings(database=str(data / "labeler.db"), data=data)) as address:
        yield address
