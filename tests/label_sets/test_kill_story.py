"""A long run killed again and again, at any moment: no reply that had arrived is asked for twice, and nobody sees it after."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import signal
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.missing import label_missing
from labeler.llm import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import ledger_key
from labeler.llm.prompt import Message
from labeler.llm.request_format import parameters_of, read_answer, reply_of
from labeler.recipe import ContextsConfig, GatherConfig, Recipe
from labeler.records import Usage
from labeler.store import open_store
from labeler.store.base.ledger import SqlLedger
from labeler.store.tables.label_sets import REPLIES
from tests import planted
from tests.stub_server import ANSWERS, GOOD, Behaviour, Json, StubServer

N = 2000
N_KILLS = 10
N_BETWEEN = 500  # requests from one kill to the next, at most
CONCURRENCY = 16
REPOSITORY = Path(__file__).resolve().parents[2]
# As little to choose from and to score as a feature can have: it is the number of features that counts here.
GATHER = GatherConfig(
    sequence_tokens=96, window_tokens=8, n_top=(4, 4), n_sampled=(4, 4), n_random=(32, 32), chunk_tokens=2048
)
CONTEXTS = ContextsConfig(
    explain_top=3,
    explain_top_pool=4,
    explain_sampled=2,
    held_out_top=2,
    held_out_random=2,
    held_out_sampled=0,
    min_firing_windows=(4, 4),
)
RECIPE = replace(Recipe.from_names("openai:letters"), contexts=CONTEXTS, n_null=0)


def meaning(feature_index: int) -> dict[str, float]:
    """One or two letters, in strengths of their own: hardly two of the features read the same contexts."""
    rng = random.Random(feature_index)
    return {rng.choice(string.ascii_lowercase): 1.0 + rng.random() for _ in range(2)}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.gathering import gather  # loads torch, which the runs do without

    folder = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "N_FEATURES", N)
        patch.setattr(planted, "meaning", meaning)
        world = planted.plant(folder / "world")
    return gather(world, folder / "evidence", GATHER, force=True)  # the features are random


def label_all(evidence: Path, database: str, llm_at: str | None) -> None:
    """As `labeler label`; without an address, by a letter LLM that is no server."""
    store, folder = open_store(database), EvidenceFolder(evidence)

    async def run() -> None:
        label_set = store.label_set_for(folder.manifest, str(evidence), RECIPE)
        if llm_at is None:
            await label_missing(folder, range(N), RECIPE, LetterLLM(), store, label_set)
            return
        async with OpenAILLM(llm_at, ledger=SqlLedger(store), concurrency=CONCURRENCY) as llm:
            await label_missing(folder, range(N), RECIPE, llm, store, label_set)

    asyncio.run(run())


class LetterLLM:
    async def complete(self, prompt: Prompt) -> Reply:
        answer = ANSWERS["/v1/chat/completions"](parameters_of(prompt, ()))
        stored = read_answer(answer, prompt, "here")
        reply = reply_of(stored, prompt, Usage(1, stored.tokens_in, stored.tokens_out, None), from_ledger=False)
        assert isinstance(reply, Reply)
        return reply

    async def echo(self, prompt: EchoPrompt) -> Echo:
        raise NotImplementedError

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        raise NotImplementedError


# Imports once. A line with a database and an address forks a run, whose process id it answers at once; a line with that
# process id is answered by its exit status, at its end.
_RUNS = """
import json, os, sys
from pathlib import Path
import alembic.command, openai.resources.chat
from tests.label_sets.test_kill_story import label_all
for words in map(json.loads, sys.stdin):
    if isinstance(words, int):
        print(os.waitpid(words, 0)[1], flush=True)
    elif (pid := os.fork()) == 0:
        label_all(Path(sys.argv[1]), *words)
        os._exit(0)
    else:
        print(pid, flush=True)
"""


class Runs:
    def __init__(self, evidence: Path) -> None:
        words = [sys.executable, "-c", _RUNS, str(evidence)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            words, cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, database: Path, llm_at: str | None = None) -> int:
        """The process id of a run."""
        return self._ask([str(database), llm_at])

    def end(self, pid: int) -> int:
        """The exit status of the run; waits for it."""
        return self._ask(pid)

    def _ask(self, words: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.kill()
        self._process.communicate()


def prompt_of(body: Json) -> Prompt:
    messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    again = "A first reply to this could not be read" in messages[-1].content
    return Prompt(body["model"], messages, body["max_tokens"], body["temperature"], schema, attempt=2 if again else 1)


def kept_keys(database: Path) -> set[str]:
    store = open_store(str(database))
    with store.database.reading() as connection:
        return set(connection.execute(select(REPLIES.c.key)).scalars())


def results(database: Path) -> list[dict[str, Any]]:
    store = open_store(str(database))
    rows = store.rows(store.newest_label_set().id)
    return [{k: v for k, v in row.items() if k != "created_at"} for row in rows]


def kill_at(goal: int, running: queue.SimpleQueue[int]) -> Callable[[int, Json], Behaviour]:
    """The process dies as its request of that number arrives, however busy the machine is."""

    def behave(number: int, body: Json) -> Behaviour:
        if number == goal:
            os.kill(running.get(), signal.SIGKILL)
        return GOOD

    return behave


def test_a_run_over_2000_features_killed_ten_times(evidence: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    calm, database = tmp_path / "calm.db", tmp_path / "killed.db"
    with StubServer() as server, Runs(evidence) as runs:
        undisturbed = runs.start(calm)
        kills: list[tuple[int, set[str]]] = []  # requests so far, and the replies in the ledger, at each kill
        goal = 0
        for _ in range(N_KILLS):
            goal += rng.randrange(1, N_BETWEEN)
            running = queue.SimpleQueue[int]()
            server.behave = kill_at(goal, running)
            pid = runs.start(database, server.base_url)
            running.put(pid)
            assert runs.end(pid) == signal.SIGKILL
            time.sleep(0.05)  # what the dead process had sent is still being read
            kills.append((len(server.requests), kept_keys(database)))
            goal = len(server.requests)
        assert runs.end(runs.start(database, server.base_url)) == 0
        assert runs.end(undisturbed) == 0
    keys = [ledger_key(prompt_of(body)) for body in server.bodies]
    assert set(keys) == kept_keys(database), "the keys that this test reads from requests are those of the ledger"
    for n_before, kept in kills:
        assert not kept & set(keys[n_before:]), "a reply that had arrived was asked for again"
    assert len(keys) - len(set(keys)) <= N_KILLS * CONCURRENCY, "only what was on its way may be asked for again"
    assert kills[-1][0] < len(keys), "each kill found work to interrupt"
    rows = results(database)
    assert rows == results(calm)
    assert Counter(row["state"] for row in rows)["labeled"] > 0.95 * N
    assert len(json.dumps([row["label"] for row in rows])) > 10 * N
