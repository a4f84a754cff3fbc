"""Blocks of jobs as workers handle them: claim, renew, save, finish, give back, lose.

    queued ──claim──► leased ──finish──► done
       ▲                │
       ├───give_back────┤
       └───take_back────┘ lost three times without any progress: ► failed

Progress is work that the next attempt need not do again: a result, a reply that was paid for, a later checkpoint.

No wall clock decides anything here. A worker that holds a block increases its `beat`. The recovery
(workers/recovery.py) takes back a block whose beat has stood still. An attempt that was taken back can neither save nor
finish: its number in `attempt` is out of date.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, exists, func, select

from labeler.records import LabeledFeature, Usage
from labeler.store.base.counters import add_up
from labeler.store.base.store import Store
from labeler.store.jobs.block_counts import bought_anew, counts_after, done_of
from labeler.store.jobs.claims import end_runs_of_block
from labeler.store.jobs.states import DONE_COUNTS, BlockState, Heartbeat, HolderOrder, Lease
from labeler.store.tables.jobs import BLOCKS, JOBS
from labeler.store.tables.label_sets import now
from labeler.terms import ACTIVE, UNFINISHED, JobKind, JobState

LOST_AT_MOST = 3
LEASE_EXPIRED, BROKE_DOWN = "lease expired", "broke down"


class Blocks:
    """The table of blocks. Every method is one transaction, and any number of workers may call it at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database = store.database

    def claim(self, kind: JobKind, owner: str) -> Lease | None:
        """Take a block of the job whose turn it is; None where no block waits.

        Turns: the lowest `priority` goes first; among equals the job with the fewest blocks in hand, then the one that
        has waited longest. So a small job starts with the next free worker, however long the job before it is. A job
        with a budget has one block in hand at a time, so that this block may spend all that is left of the budget.
        """
        with self._database.writing() as connection:
            for job_id in connection.execute(_jobs_by_turn(kind)).scalars().all():
                if self._start(connection, job_id) and (lease := self._lease(connection, job_id, owner)) is not None:
                    return lease
        return None

    def _start(self, connection: Connection, job_id: int) -> bool:
        """Mark the job as running and its turn as taken; False if it was paused or canceled meanwhile."""
        last_turn = select(func.coalesce(func.max(JOBS.alias().c.turn), 0)).scalar_subquery()
        started = (
            JOBS.update()
            .where(JOBS.c.id == job_id, JOBS.c.state.in_(ACTIVE))
            .values(
                state=JobState.RUNNING,
                turn=last_turn + 1,
                started_at=func.coalesce(JOBS.c.started_at, now()),
                running_since=func.coalesce(JOBS.c.running_since, now()),
            )
        )
        return bool(connection.execute(started).rowcount)

    def _lease(self, connection: Connection, job_id: int, owner: str) -> Lease | None:
        # _start has locked the job's row, so claims of one job come one after the other.
        waiting = select(BLOCKS.c.id).where(BLOCKS.c.job_id == job_id, _claimable())
        if connection.execute(_is_taken_alone(job_id)).scalar_one():
            return None
        block_id = connection.execute(waiting.order_by(BLOCKS.c.stage, BLOCKS.c.number).limit(1)).scalar_one_or_none()
        if block_id is None:
            return None
        connection.execute(
            BLOCKS.update()
            .where(BLOCKS.c.id == block_id)
            .values(
                state=BlockState.LEASED,
                owner=owner,
                attempts=BLOCKS.c.attempts + 1,
                beat=BLOCKS.c.beat + 1,
                wanted_back=0,
                reason=None,
                n_failed=0,
                started_at=func.coalesce(BLOCKS.c.started_at, now()),
            )
        )
        end_runs_of_block(connection, block_id)
        row = connection.execute(_leases().where(BLOCKS.c.id == block_id)).mappings().one()
        return Lease(**{**row, "kind": JobKind(row["kind"])})

    def renew(self, lease: Lease, *, has_progressed: bool = False) -> HolderOrder:
        """Report that the holder lives, and return what it must do.

        `has_progressed` clears the count of attempts that were lost before.
        """
        values = {"beat": BLOCKS.c.beat + 1} | ({"lost": 0} if has_progressed else {})
        with self._database.writing() as connection:
            if not connection.execute(BLOCKS.update().where(_mine(lease)).values(**values)).rowcount:
                return HolderOrder.LOST
            wanted = select(JOBS.c.state, BLOCKS.c.wanted_back).join(JOBS, JOBS.c.id == BLOCKS.c.job_id)
            state, wanted_back = connection.execute(wanted.where(BLOCKS.c.id == lease.block_id)).one()
        return HolderOrder.GO_ON if state == JobState.RUNNING and not wanted_back else HolderOrder.STOP

    def begin(self, lease: Lease) -> None:
        """Count the features of the block that already need no work."""
        with self._database.writing() as connection:
            connection.execute(BLOCKS.update().where(_mine(lease)).values(**done_of(connection, lease)))

    def begin_at(self, lease: Lease, millionths: int) -> None:
        """Record how far the checkpoint of a shard is; it is progress to be further than at the last loss."""
        further = _mine(lease) & (BLOCKS.c.done_when_lost < millionths)
        with self._database.writing() as connection:
            connection.execute(BLOCKS.update().where(further).values(lost=0, done_when_lost=millionths))

    def save(self, lease: Lease, features: Sequence[LabeledFeature]) -> bool:
        """Save results and count them, all or none; False, with nothing saved, where the lease is lost."""
        label_set, indices = lease.label_set_id or 0, [feature.feature_index for feature in features]
        with self._database.writing() as connection:
            mine = connection.execute(select(BLOCKS.c.id).where(_mine(lease)).with_for_update()).first()
            if mine is None:
                return False
            before = self._store.outcomes_in(connection, label_set, indices)
            self._store.save_in(connection, label_set, features)
            after = self._store.outcomes_in(connection, label_set, indices)
            states = Counter(state for state, _ in after.values())
            bought = sum((bought_anew(f.usage, before.get(f.feature_index)) for f in features), Usage())
            connection.execute(BLOCKS.update().where(_mine(lease)).values(**counts_after(states, bought)))
            return True

    def finish(self, lease: Lease) -> bool:
        """Mark the block as done, and its job with the last block; False where the lease is lost."""
        with self._database.writing() as connection:
            done = BLOCKS.update().where(_mine(lease)).values(state=BlockState.DONE, owner=None, ended_at=now())
            if not connection.execute(done).rowcount:
                return False
            end_runs_of_block(connection, lease.block_id)
            end_if_over(connection, lease.job_id)
        return True

    def give_back(self, lease: Lease) -> bool:
        """Let the block wait again, without counting an attempt as lost.

        For a worker that stops, or a job that is paused.
        """
        with self._database.writing() as connection:
            back = BLOCKS.update().where(_mine(lease)).values(state=BlockState.QUEUED, owner=None)
            if not connection.execute(back).rowcount:
                return False
            end_runs_of_block(connection, lease.block_id)
        return True

    def beats(self) -> list[Heartbeat]:
        """List the sign of life of each leased block."""
        query = select(BLOCKS.c.id, BLOCKS.c.attempts, BLOCKS.c.beat).where(BLOCKS.c.state == BlockState.LEASED)
        with self._database.reading() as connection:
            return [Heartbeat(*row) for row in connection.execute(query)]

    def take_back(self, beat: Heartbeat, reason: str, how: str = LEASE_EXPIRED) -> BlockState | None:
        """Take a block from a holder without a sign of life since `beat`; None if it gave one.

        A block that is lost three times in a row without any progress becomes `failed`, to be set aside. `how` names
        the loss in the counters.
        """
        with self._database.writing() as connection:
            here = (
                (BLOCKS.c.id == beat.block_id)
                & (BLOCKS.c.attempts == beat.attempt)
                & (BLOCKS.c.beat == beat.beat)
                & (BLOCKS.c.state == BlockState.LEASED)
            )
            block = connection.execute(select(BLOCKS).where(here).with_for_update()).mappings().one_or_none()
            if block is None:
                return None
            done = sum(block[f"n_{state}"] for state in DONE_COUNTS)
            lost = 1 if done > block["done_when_lost"] else block["lost"] + 1
            state = BlockState.FAILED if lost >= LOST_AT_MOST else BlockState.QUEUED
            connection.execute(
                BLOCKS.update()
                .where(BLOCKS.c.id == beat.block_id)
                .values(
                    state=state, owner=None, lost=lost, done_when_lost=max(done, block["done_when_lost"]), reason=reason
                )
            )
            end_runs_of_block(connection, beat.block_id)
            add_up(connection, {("blocks_lost", (how, str(state))): 1})
            return state

    def lose(self, lease: Lease, reason: str) -> BlockState | None:
        """Report, as the holder, that the attempt broke down; this counts like the death of a worker."""
        beats = [b for b in self.beats() if (b.block_id, b.attempt) == (lease.block_id, lease.attempt)]
        return self.take_back(beats[0], reason, BROKE_DOWN) if beats else None

    def to_set_aside(self) -> list[tuple[Lease, str]]:
        """List failed blocks whose features are not marked yet, each with the reason."""
        with self._database.reading() as connection:
            rows = (
                connection.execute(
                    _leases()
                    .add_columns(BLOCKS.c.reason)
                    .where(BLOCKS.c.state == BlockState.FAILED, BLOCKS.c.ended_at.is_(None))
                )
                .mappings()
                .all()
            )
        return [_set_aside(dict(row)) for row in rows]

    def set_aside(self, lease: Lease, features: Sequence[LabeledFeature]) -> None:
        """Mark the features that a failed block left undone as failed; its job goes on without it, or ends."""
        with self._database.writing() as connection:
            this = BLOCKS.update().where(BLOCKS.c.id == lease.block_id)
            closed = this.where(BLOCKS.c.state == BlockState.FAILED, BLOCKS.c.ended_at.is_(None)).values(ended_at=now())
            if connection.execute(closed).rowcount:
                if features:
                    self._store.save_in(connection, lease.label_set_id or 0, features)
                done = done_of(connection, lease)
                connection.execute(this.values(**done, n_failed=BLOCKS.c.n_features - sum(done.values())))
                end_if_over(connection, lease.job_id)

    def waiting(self, kind: JobKind, at_most: int) -> int:
        """Count the blocks of active jobs that could be claimed now, up to `at_most`."""
        query = (
            select(BLOCKS.c.id)
            .join(JOBS, JOBS.c.id == BLOCKS.c.job_id)
            .where(JOBS.c.kind == kind, JOBS.c.state.in_(ACTIVE), _claimable())
            .limit(at_most)
        )
        with self._database.reading() as connection:
            return len(connection.execute(query).all())

    def make_room(self, kind: JobKind) -> bool:
        """Ask for a worker for a job that has not begun; True where a block was asked for.

        The job with the most workers is asked to hand back a block. Only the first block of a job is worth an
        interruption; later blocks wait for their turn. While a block is on its way back, no other is asked for.
        """
        with self._database.writing() as connection:
            jobs = connection.execute(_shares(kind)).all()
            new = [j for j in jobs if j.state == JobState.QUEUED and j.waits]
            fat = max(jobs, key=lambda j: (j.priority, j.n_leased), default=None)
            if not new or fat is None or not fat.n_leased or any(j.n_wanted_back for j in jobs):
                return False
            if fat.priority < min(j.priority for j in new):
                return False
            youngest = (
                select(BLOCKS.c.id)
                .where(BLOCKS.c.job_id == fat.id, BLOCKS.c.state == BlockState.LEASED)
                .order_by(BLOCKS.c.number.desc())
                .limit(1)
            )
            connection.execute(BLOCKS.update().where(BLOCKS.c.id.in_(youngest)).values(wanted_back=1))
            return True


def end_if_over(connection: Connection, job_id: int) -> None:
    """End a job that has no open block left. A gathering pass ends with its first failed block."""
    # The lock: when two workers finish the last two blocks at once, the later one sees both as done.
    job = connection.execute(select(JOBS).where(JOBS.c.id == job_id).with_for_update()).mappings().one()
    here = BLOCKS.c.job_id == job_id
    broken = select(BLOCKS.c.number, BLOCKS.c.reason).where(here, BLOCKS.c.state == BlockState.FAILED)
    failed = connection.execute(broken.order_by(BLOCKS.c.number)).all()
    unmarked = here & (BLOCKS.c.state == BlockState.FAILED) & BLOCKS.c.ended_at.is_(None)
    unfinished = here & BLOCKS.c.state.in_((BlockState.QUEUED, BlockState.LEASED))
    is_open = connection.execute(select(exists().where(unfinished | unmarked))).scalar_one()
    if job["state"] not in UNFINISHED or (is_open and not (failed and job["kind"] == JobKind.GATHER)):
        return
    reason = (
        f"{len(failed)} of {job['n_blocks']} blocks failed; block {failed[0].number}: {failed[0].reason}"
        if failed
        else None
    )
    state = JobState.FAILED if failed else JobState.DONE
    connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(state=state, reason=reason, ended_at=now()))


def _mine(lease: Lease) -> Any:
    held = (BLOCKS.c.attempts == lease.attempt) & (BLOCKS.c.state == BlockState.LEASED)
    return (BLOCKS.c.id == lease.block_id) & held


def _claimable() -> Any:
    before = BLOCKS.alias("before")
    not_done = before.c.state.in_((BlockState.QUEUED, BlockState.LEASED, BlockState.FAILED))
    held_up = exists().where(before.c.job_id == BLOCKS.c.job_id, not_done, before.c.stage < BLOCKS.c.stage)
    return (BLOCKS.c.state == BlockState.QUEUED) & ~held_up


def _jobs_by_turn(kind: JobKind) -> Any:
    of_job = BLOCKS.c.job_id == JOBS.c.id
    n_leased = select(func.count()).where(of_job, BLOCKS.c.state == BlockState.LEASED).scalar_subquery()
    return (
        select(JOBS.c.id)
        .where(JOBS.c.kind == kind, JOBS.c.state.in_(ACTIVE), exists().where(of_job, _claimable()))
        .where(_has_no_budget() | (n_leased == 0))
        .order_by(JOBS.c.priority, n_leased, JOBS.c.turn, JOBS.c.id)
        .limit(8)
    )


def _is_taken_alone(job_id: int) -> Any:
    """Return a condition: this job has a budget, and one of its blocks is leased."""
    in_hand = exists().where(BLOCKS.c.job_id == job_id, BLOCKS.c.state == BlockState.LEASED)
    return select(exists().where(JOBS.c.id == job_id, ~_has_no_budget()) & in_hand)


def _has_no_budget() -> Any:
    return JOBS.c.budget_usd.is_(None) & JOBS.c.budget_tokens.is_(None)


def _shares(kind: JobKind) -> Any:
    of_job, leased = BLOCKS.c.job_id == JOBS.c.id, BLOCKS.c.state == BlockState.LEASED
    return select(
        JOBS.c.id,
        JOBS.c.priority,
        JOBS.c.state,
        exists().where(of_job, _claimable()).label("waits"),
        select(func.count()).where(of_job, leased).scalar_subquery().label("n_leased"),
        select(func.count()).where(of_job, leased, BLOCKS.c.wanted_back == 1).scalar_subquery().label("n_wanted_back"),
    ).where(JOBS.c.kind == kind, JOBS.c.state.in_(ACTIVE))


def _leases() -> Any:
    return select(
        BLOCKS.c.id.label("block_id"),
        BLOCKS.c.job_id,
        JOBS.c.kind,
        BLOCKS.c.number,
        BLOCKS.c.stage,
        BLOCKS.c.attempts.label("attempt"),
        BLOCKS.c.first,
        BLOCKS.c.last,
        BLOCKS.c.chosen,
        JOBS.c.label_set_id,
        JOBS.c.gather,
        JOBS.c.budget_usd,
        JOBS.c.budget_tokens,
    ).join(JOBS, JOBS.c.id == BLOCKS.c.job_id)


def _set_aside(row: dict[str, Any]) -> tuple[Lease, str]:
    reason = row.pop("reason")
    return Lease(**{**row, "kind": JobKind(row["kind"])}), str(reason)
