"""Several runs at one label set: together they buy what one would have bought, and each ends with the whole set."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from labeler.errors import ConfigurationError, TakenOverError
from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.batches import label_in_batches
from labeler.label_sets.label_sets import LabelSetToMake
from labeler.label_sets.lease import awake_seconds
from labeler.label_sets.missing import Run, label_missing
from labeler.label_sets.share import Hands, Share, Sharing
from labeler.llm.batch import Batches
from labeler.llm.client import OpenAILLM
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from labeler.store.base.batches import SqlJournal
from labeler.store.base.ledger import SqlLedger
from labeler.store.jobs.claims import Claims
from labeler.store.tables.claims import CLAIMS, RUNS
from tests import stub_server as stub
from tests.planted import N_FEATURES
from tests.stub_server import Behaviour, StubServer

RECIPE = Recipe.from_names("openai:letters")
ALL_DONE = {"labeled": N_FEATURES - 2, "silent": 1, "rare": 1}
CONCURRENCY = 16  # of `labeler label`, where nothing else is said
REPOSITORY = Path(__file__).resolve().parents[2]


class OneRun:
    """A run with everything of its own, as another process would have it; only the database is shared."""

    def __init__(self, url: str, evidence: Path, server: StubServer, recipe: Recipe = RECIPE) -> None:
        self.store = open_store(url, migrate=False)
        self.folder, self.server, self.recipe = EvidenceFolder(evidence), server, recipe
        self.label_set = LabelSetToMake(self.store, self.folder, recipe)
        self.waits: list[Hands] = []
        self.features = range(N_FEATURES)

    def sharing(self, **options: Any) -> Sharing:
        return Sharing(**{"on_wait": self.waits.append, **options})

    async def live(self, **options: Any) -> Run:
        async with OpenAILLM(self.server.base_url, ledger=SqlLedger(self.store), concurrency=4) as llm:
            return await label_missing(
                self.folder,
                self.features,
                self.recipe,
                llm,
                self.store,
                self.label_set,
                at_once=4,
                sharing=self.sharing(**options),
            )

    async def in_batches(self) -> Run:
        async with OpenAILLM(self.server.base_url, ledger=SqlLedger(self.store)) as llm:
            batches = Batches(llm, SqlJournal(self.store), poll_seconds=0.01)
            return await label_in_batches(
                self.folder,
                self.features,
                self.recipe,
                llm,
                batches,
                self.store,
                self.label_set,
                sharing=self.sharing(),
            )

    async def by_lookup(self) -> Run:
        return await label_missing(
            self.folder, range(N_FEATURES), self.recipe, None, self.store, self.label_set, sharing=self.sharing()
        )

    def counts(self) -> dict[str, int]:
        return Counter(row["state"] for row in self.store.rows(self.label_set.make().id))


@pytest.fixture
def url(store: Store) -> str:
    return store.database._engine.url.render_as_string(hide_password=False)


@pytest.fixture
def new_run(url: str, planted_evidence: Path, stub_server: StubServer) -> Iterator[Callable[..., OneRun]]:
    runs: list[OneRun] = []

    def new(recipe: Recipe = RECIPE) -> OneRun:
        runs.append(OneRun(url, planted_evidence, stub_server, recipe))
        return runs[-1]

    yield new
    for run in runs:
        run.store.close()


def bodies(server: StubServer) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in server.bodies)


def in_hand(store: Store) -> tuple[int, int]:
    """How many claims and runs the database holds."""
    with store.database.reading() as connection:
        return len(connection.execute(select(CLAIMS)).all()), len(connection.execute(select(RUNS)).all())


def test_two_runs_at_once_buy_what_one_would_and_both_end_with_the_whole_set(
    new_run: Callable[..., OneRun], stub_server: StubServer
) -> None:
    stub_server.behave = lambda number, body: stub.slow(0.02)
    first, second = new_run(), new_run()

    async def both() -> list[Run]:
        return list(await asyncio.gather(first.live(), second.live()))

    ran = asyncio.run(both())
    assert first.counts() == second.counts() == ALL_DONE
    assert first.label_set.make().id == second.label_set.make().id
    assert max(bodies(stub_server).values()) == 1, "a request was paid for twice"
    assert sum(r.n_labeled_now for r in ran) == N_FEATURES
    assert all(r.n_labeled_now > 0 for r in ran), "each had a part of the work"
    assert all(r.n_labeled_now + r.n_by_others == N_FEATURES and r.n_left == 0 for r in ran)
    assert in_hand(first.store) == (0, 0)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("ways", [("in_batches", "live"), ("in_batches", "in_batches")])
def test_batches_share_as_live_runs_do(
    new_run: Callable[..., OneRun], stub_server: StubServer, ways: tuple[str, str]
) -> None:
    stub_server.batches.n_looks = 3
    stub_server.behave = lambda number, body: stub.slow(0.02)
    first, second = new_run(), new_run()
    first.features = second.features = range(8, 28)

    async def both() -> None:
        await asyncio.gather(getattr(first, ways[0])(), getattr(second, ways[1])())

    asyncio.run(both())
    assert first.counts() == second.counts() == {"labeled": 20}
    assert max(bodies(stub_server).values()) == 1


def test_look_ups_are_shared_too(new_run: Callable[..., OneRun]) -> None:
    runs = [new_run(Recipe()), new_run(Recipe())]

    async def both() -> list[Run]:
        return await asyncio.gather(*(run.by_lookup() for run in runs))

    assert sum(r.n_labeled_now for r in asyncio.run(both())) == N_FEATURES
    assert runs[0].counts() == ALL_DONE


def test_a_run_says_whom_it_waits_for(new_run: Callable[..., OneRun]) -> None:
    first, second = new_run(), new_run()

    async def wait() -> Run:
        async with Share(first.store, first.label_set, [1, 2, 3], first.sharing()) as share:
            assert await share.take(2) == [1, 2]
            waiting = asyncio.ensure_future(second.live())
            while not second.waits:
                assert not waiting.done()
                await asyncio.sleep(0.01)
            # The rest is done meanwhile, and nothing of what is in hand is asked about.
        return await waiting

    ran = asyncio.run(wait())
    assert second.waits[0] == Hands(3, (f"process {os.getpid()}",))
    assert (ran.n_labeled_now, ran.n_left) == (N_FEATURES, 0), "what became free was taken"


def test_a_wait_may_have_an_end(new_run: Callable[..., OneRun]) -> None:
    """As in a worker, which gives its block back then."""
    first, second = new_run(), new_run()

    async def wait() -> Run:
        async with Share(first.store, first.label_set, [1, 2, 3], first.sharing()) as share:
            await share.take(1)
            return await second.live(longest_wait=0.0)

    assert asyncio.run(wait()).n_left == 3


def test_the_claims_of_a_silent_run_are_taken_over_and_it_asks_for_nothing_more(
    new_run: Callable[..., OneRun], stub_server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is frozen keeps its number, so that only its silence tells; once awake it finds the work done."""
    first, second = new_run(), new_run()
    asleep = first.sharing(lease_seconds=1.0)

    async def wake_up_late() -> None:
        async with Share(first.store, first.label_set, [1, 2, 3], asleep) as share:
            share._lease._ended.set()  # frozen: it says no more that it lives
            assert len(await share.take(3)) == 3
            await second.live(lease_seconds=1.0)
            n_before = len(stub_server.requests)
            while share._lease.is_sure:
                await asyncio.sleep(0.01)
            with pytest.raises(TakenOverError):
                await share.check()
            assert len(stub_server.requests) == n_before

    asyncio.run(wake_up_late())
    assert second.counts() == ALL_DONE
    assert in_hand(second.store) == (0, 0)


def test_a_run_that_was_taken_over_sends_nothing_for_what_others_have_and_goes_on(
    new_run: Callable[..., OneRun], stub_server: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of it: its requests are in mid-air as it freezes, others do its work, and it wakes up."""
    first, second = new_run(), new_run()
    stub_server.behave = lambda number, body: stub.slow(0.05)

    async def freeze_in_the_middle() -> Run:
        sleeper = asyncio.ensure_future(first.live(lease_seconds=1e6))
        while len(stub_server.requests) < 12:
            assert not sleeper.done()
            await asyncio.sleep(0.005)
        # A sleep that is longer than the lease, and what others have made of it, at a moment with requests in flight.
        awake = awake_seconds()
        monkeypatch.setattr("labeler.label_sets.lease.awake_seconds", lambda: awake + 2e6)
        with first.store.database.writing() as connection:
            connection.execute(RUNS.delete())
        await second.live(lease_seconds=1e6)
        return await sleeper

    ran = asyncio.run(freeze_in_the_middle())
    assert first.counts() == ALL_DONE
    assert ran.n_left == 0
    repeated = sum(n - 1 for n in bodies(stub_server).values())
    assert repeated <= 4, "only what was in flight may have been asked for twice"


def test_a_dead_process_of_this_machine_loses_its_claims_at_once(
    new_run: Callable[..., OneRun], stub_server: StubServer
) -> None:
    run = new_run()
    dead = _name_of_a_dead_process()
    claims = Claims(run.store)
    gone = claims.begin()
    with run.store.database.writing() as connection:
        connection.execute(RUNS.update().where(RUNS.c.id == gone).values(process=dead))
    claims.claim(gone, run.label_set.work, range(N_FEATURES))
    asyncio.run(run.live(lease_seconds=1e6))
    assert (run.counts(), run.waits) == (ALL_DONE, [])


def _name_of_a_dead_process() -> str:
    words = "from labeler.store.base.processes import this_process; print(this_process())"
    done = subprocess.run([sys.executable, "-c", words], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_nothing_is_made_before_the_first_reply(new_run: Callable[..., OneRun], stub_server: StubServer) -> None:
    run = new_run()
    stub_server.behave = lambda number, body: stub.fails(401, "wrong key")
    with pytest.raises(ConfigurationError, match="wrong key"):
        asyncio.run(run.live())
    assert run.store.label_sets() == []
    assert in_hand(run.store) == (0, 0)
    stub_server.behave = lambda number, body: stub.GOOD
    asyncio.run(run.live())
    assert run.counts() == ALL_DONE


# The command itself, in processes of their own.


@contextmanager
def labeling(evidence: Path, server: StubServer, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from labeler.cli import main; main()"]
    words = [*command, "label", str(evidence), "--explainer", "openai:letters", "--json"]
    environment = {
        **os.environ,
        "OPENAI_BASE_URL": server.base_url,
        "LABELER_DB": str(folder / "labeler.db"),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        words, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_terminal_ends_what_a_killed_one_began(
    planted_evidence: Path, stub_server: StubServer, tmp_path: Path
) -> None:
    """The first is killed while the second is at work beside it: only what was in flight is asked for again."""
    killed: list[int] = []

    def behave(number: int, body: dict[str, Any]) -> Behaviour:
        if number == 60:
            killed.append(first.pid)
            os.kill(first.pid, signal.SIGKILL)
        return stub.slow(0.1)

    stub_server.behave = behave
    with (
        labeling(planted_evidence, stub_server, tmp_path) as first,
        labeling(planted_evidence, stub_server, tmp_path) as second,
    ):
        out, err = second.communicate()
        assert second.returncode == 0, err
        assert first.wait() == -signal.SIGKILL
    assert killed == [first.pid]
    counts = json.loads(out)["summary"]["counts"]
    assert {state: n for state, n in counts.items() if n} == ALL_DONE
    repeated = sum(n - 1 for n in bodies(stub_server).values())
    assert repeated <= CONCURRENCY, "more was asked again than the killed one had in flight"
