"""Claims of features by runs. A run claims a feature before it buys anything, so that two runs never pay for the same
one.

    free ──claim──► in hand ──release, once the result is saved──► free, and done
      ▲               │
      └───take_back───┘ the run has shown no sign of life, or its process is dead

No wall clock decides anything, as with blocks. A run increases its `beat`. A process that sees the beat stand still for
long enough, by its own monotonic clock, takes back all claims of the run. A run that was taken back is deleted, and
learns so at its next step.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from labeler.errors import TakenOverError
from labeler.records import State
from labeler.store.base.database import insert_into
from labeler.store.base.processes import described, is_dead, this_process
from labeler.store.base.store import Store
from labeler.store.tables.claims import CLAIMS, RUNS
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS, now

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True)
class RunBeat:
    """A sign of life of a run."""

    run: str
    beat: int


@dataclass(frozen=True)
class Claimed:
    """The features that a run asked for, sorted by who has them."""

    ours: list[int]  # claimed by this run now
    done: list[int]  # another run has labeled them meanwhile
    held: list[int]  # claimed by another run


@dataclass(frozen=True)
class Work:
    """A recipe on evidence; the pair identifies a label set before it exists."""

    evidence_hash: str
    recipe_hash: str

    @property
    def id(self) -> str:
        return hashlib.sha256(f"{self.evidence_hash} {self.recipe_hash}".encode()).hexdigest()[:32]


class Claims:
    """The table of claims. Every method is one transaction, and any number of processes may call it at once."""

    def __init__(self, store: Store) -> None:
        self._database = store.database

    def begin(self, block_id: int | None = None) -> str:
        """Add a run of this process and return its id; `block_id` is the block that it works on, if any."""
        run = secrets.token_hex(8)
        values = {"id": run, "process": this_process(), "block_id": block_id, "beat": 0, "started_at": now()}
        with self._database.writing() as connection:
            connection.execute(RUNS.insert().values(**values))
        return run

    def end(self, run: str) -> None:
        """Delete the run and release all its claims."""
        with self._database.writing() as connection:
            connection.execute(CLAIMS.delete().where(CLAIMS.c.run_id == run))
            connection.execute(RUNS.delete().where(RUNS.c.id == run))

    def renew(self, run: str) -> bool:
        """Report that the run lives; False where its claims were taken back."""
        with self._database.writing() as connection:
            return _renew(connection, run)

    def claim(self, run: str, work: Work, features: Sequence[int]) -> Claimed:
        """Claim those of these features that are free and not done. Raises TakenOverError where the run was taken back."""
        with self._database.writing() as connection:
            if not _renew(connection, run):
                raise TakenOverError(
                    "another process has taken over the features of this run, which gave no sign of life"
                )
            taken: list[int] = []
            # In the order of features, as in every run: then two runs that meet wait for each other, and never
            # deadlock.
            wanted = sorted(features)
            for low in range(0, len(wanted), _ROWS_AT_ONCE):
                part = wanted[low : low + _ROWS_AT_ONCE]
                rows = [{"work": work.id, "feature_index": f, "run_id": run} for f in part]
                insert = insert_into(CLAIMS, self._database.dialect).values(rows).on_conflict_do_nothing()
                taken += connection.execute(insert.returning(CLAIMS.c.feature_index)).scalars()
            # Read after the claim: a run that had a feature before us saved its result before it released the feature.
            done = _done(connection, work, taken)
            _release(connection, run, work, done)
        ours = set(taken)
        return Claimed(
            [f for f in features if f in ours and f not in done],
            [f for f in features if f in done],
            [f for f in features if f not in ours],
        )

    def release(self, run: str, work: Work, features: Iterable[int]) -> None:
        with self._database.writing() as connection:
            _release(connection, run, work, features)

    def holders(self, work: Work, run: str) -> dict[str, int]:
        """Describe the other runs that label features of this label set, each with its number of features."""
        query = (
            select(RUNS.c.process, func.count())
            .join(CLAIMS, CLAIMS.c.run_id == RUNS.c.id)
            .where(CLAIMS.c.work == work.id, RUNS.c.id != run)
            .group_by(RUNS.c.process)
        )
        with self._database.reading() as connection:
            return {described(process): n for process, n in connection.execute(query)}

    def beats(self) -> list[RunBeat]:
        with self._database.reading() as connection:
            return [RunBeat(*row) for row in connection.execute(select(RUNS.c.id, RUNS.c.beat))]

    def take_back(self, beat: RunBeat) -> bool:
        """Take all claims from a run without a sign of life since `beat`; False if it gave one."""
        here = (RUNS.c.id == beat.run) & (RUNS.c.beat == beat.beat)
        with self._database.writing() as connection:
            # The claims are deleted with their run.
            return bool(connection.execute(RUNS.delete().where(here)).rowcount)

    def take_back_from_the_dead(self) -> int:
        """Take all claims from runs of this machine whose processes have ended, and return the number of those runs."""
        with self._database.reading() as connection:
            runs = connection.execute(select(RUNS.c.id, RUNS.c.beat, RUNS.c.process)).all()
        return sum(self.take_back(RunBeat(run, beat)) for run, beat, process in runs if is_dead(process))


def end_runs_of_block(connection: Connection, block_id: int) -> None:
    """End the runs on a block that changes hands, and release the features that they had claimed."""
    connection.execute(RUNS.delete().where(RUNS.c.block_id == block_id))


def _renew(connection: Connection, run: str) -> bool:
    # The row stays locked until the end of the transaction, so that no process takes the run back in the middle of it.
    return bool(connection.execute(RUNS.update().where(RUNS.c.id == run).values(beat=RUNS.c.beat + 1)).rowcount)


def _release(connection: Connection, run: str, work: Work, features: Iterable[int]) -> None:
    wanted = sorted(features)
    for low in range(0, len(wanted), _ROWS_AT_ONCE):
        mine = (CLAIMS.c.work == work.id) & (CLAIMS.c.run_id == run)
        connection.execute(CLAIMS.delete().where(mine, CLAIMS.c.feature_index.in_(wanted[low : low + _ROWS_AT_ONCE])))


def _done(connection: Connection, work: Work, features: Sequence[int]) -> set[int]:
    label_set = (
        select(LABEL_SETS.c.id)
        .join(EVIDENCE, EVIDENCE.c.id == LABEL_SETS.c.evidence_id)
        .where(EVIDENCE.c.hash == work.evidence_hash, LABEL_SETS.c.recipe_hash == work.recipe_hash)
        .scalar_subquery()
    )
    done: set[int] = set()
    for low in range(0, len(features), _ROWS_AT_ONCE):
        part = features[low : low + _ROWS_AT_ONCE]
        query = select(RESULTS.c.feature_index).where(
            RESULTS.c.label_set_id == label_set, RESULTS.c.feature_index.in_(part), RESULTS.c.state != State.FAILED
        )
        done |= set(connection.execute(query).scalars())
    return done
