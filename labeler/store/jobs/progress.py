"""The progress of a job, computed on request: no number here is stored anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, case, func, select

from labeler.records import State
from labeler.store.base.store import Store
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.states import BlockState
from labeler.store.tables.jobs import BLOCKS, JOBS
from labeler.store.tables.label_sets import RESULTS, now
from labeler.terms import JobKind, JobState

_COUNTED = (State.LABELED, State.SILENT, State.RARE, State.FAILED)


@dataclass(frozen=True)
class JobProgress:
    """The progress of a job at this moment."""

    state: JobState
    counts: dict[str, int]  # features by state
    blocks: dict[str, int]  # by state; the blocks of a gathering pass are its steps
    per_second: float | None  # features (or steps) per second since the last start; None before the first
    seconds_left: float | None
    requests: int
    tokens_in: int
    tokens_out: int
    cost_usd: float | None  # None where the price of any part is unknown
    errors: dict[str, int]  # failed features by kind of failure


@dataclass(frozen=True)
class Failure:
    """A feature without a label, with the reason."""

    feature_index: int
    reason: str


def progress_of(store: Store, job_id: int) -> JobProgress:
    """Compute the progress of a job. Raises NotFoundError."""
    info = Jobs(store).get(job_id)
    with store.database.reading() as connection:
        job = connection.execute(select(JOBS).where(JOBS.c.id == job_id)).mappings().one()
        by_state = _blocks(connection, job_id)
        sums = _sums(connection, job_id)
        errors = {} if sums["n_failed"] == 0 else _errors(connection, job_id, job["label_set_id"])
    counts = {str(state): sums[f"n_{state}"] for state in _COUNTED}
    counts[str(State.PENDING)] = info.n_features - sum(counts.values())
    n_done, n_all = sum(counts[s] for s in _COUNTED[:3]), info.n_features - counts[State.FAILED]
    if info.kind is JobKind.GATHER:
        n_done, n_all = by_state[BlockState.DONE], info.n_blocks
    rate = _rate(job["running_since"], n_done - (job["done_before"] if info.kind is JobKind.LABEL else 0))
    return JobProgress(
        info.state,
        counts,
        by_state,
        rate,
        None if not rate else (n_all - n_done) / rate,
        sums["requests"],
        sums["tokens_in"],
        sums["tokens_out"],
        None if sums["n_unpriced"] else sums["cost_usd"],
        errors,
    )


def failures_of(store: Store, job_id: int, after: int = -1, limit: int = 100) -> list[Failure]:
    """List the failed features of a job by rising index, those after the cursor `after`."""
    # Block by block, since a block's failures lie together: one query over all failures would search every block for each.
    failing = select(BLOCKS.c.id).where(BLOCKS.c.job_id == job_id, BLOCKS.c.n_failed > 0, BLOCKS.c.last > after)
    found: list[Failure] = []
    with store.database.reading() as connection:
        for block_id in connection.execute(failing.order_by(BLOCKS.c.number)).scalars().all():
            found += _failures_in(connection, block_id, after, limit - len(found))
            if len(found) >= limit:
                break
    return found


def _failures_in(connection: Connection, block_id: int, after: int, limit: int) -> list[Failure]:
    failed = (RESULTS.c.label_set_id == JOBS.c.label_set_id) & (RESULTS.c.state == State.FAILED) & _inside()
    query = (
        select(RESULTS.c.feature_index, RESULTS.c.reason)
        .select_from(BLOCKS.join(JOBS, JOBS.c.id == BLOCKS.c.job_id).join(RESULTS, failed))
        .where(BLOCKS.c.id == block_id, RESULTS.c.feature_index > after)
    )
    rows = connection.execute(query.order_by(RESULTS.c.feature_index).limit(limit))
    return [Failure(index, reason or "") for index, reason in rows]


def _blocks(connection: Connection, job_id: int) -> dict[str, int]:
    counted = select(BLOCKS.c.state, func.count()).where(BLOCKS.c.job_id == job_id).group_by(BLOCKS.c.state)
    found: dict[str, int] = dict(connection.execute(counted).all())
    return {str(state): found.get(str(state), 0) for state in BlockState}


def _sums(connection: Connection, job_id: int) -> dict[str, Any]:
    names = (*(f"n_{state}" for state in _COUNTED), "requests", "tokens_in", "tokens_out", "cost_usd")
    columns = [func.coalesce(func.sum(BLOCKS.c[name]), 0).label(name) for name in names]
    unpriced = func.count().filter(BLOCKS.c.cost_usd.is_(None)).label("n_unpriced")
    row = connection.execute(select(*columns, unpriced).where(BLOCKS.c.job_id == job_id)).mappings().one()
    return {name: float(value) if name == "cost_usd" else int(value) for name, value in row.items()}


def _errors(connection: Connection, job_id: int, label_set_id: int) -> dict[str, int]:
    kind = (
        case((RESULTS.c.reason.contains(":"), func.split_part(RESULTS.c.reason, ":", 1)))
        if connection.dialect.name == "postgresql"
        else func.substr(RESULTS.c.reason, 1, func.instr(RESULTS.c.reason, ":") - 1)
    )
    # By way of the blocks with failures, and by an outer join, which SQLite reads in this order: otherwise each failed
    # feature would be searched for in every block.
    result = RESULTS.c
    failed = (result.label_set_id == label_set_id) & (result.state == State.FAILED) & _inside()
    query = select(kind, func.count(result.feature_index)).select_from(BLOCKS.outerjoin(RESULTS, failed))
    rows = connection.execute(query.where(BLOCKS.c.job_id == job_id, BLOCKS.c.n_failed > 0).group_by(kind)).all()
    return {name or "other": n for name, n in rows if n}


def _inside() -> Any:
    """Return the condition for results of a block's features. Its range may hold features that were not selected."""
    listed = BLOCKS.c.chosen.is_(None) | ("," + BLOCKS.c.chosen + ",").contains(
        "," + func.cast(RESULTS.c.feature_index, BLOCKS.c.chosen.type) + ","
    )
    return RESULTS.c.feature_index.between(BLOCKS.c.first, BLOCKS.c.last) & listed


def _rate(since: datetime | None, n: int) -> float | None:
    if since is None:
        return None
    # SQLite returns times without their zone, which is UTC.
    seconds = (now() - since.replace(tzinfo=since.tzinfo or UTC)).total_seconds()
    return n / seconds if n > 0 and seconds > 0 else None
