"""The tables of jobs: requests, and the blocks that each is cut into. A change here needs a migration."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, DateTime, Float, Index, Integer, Text, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from labeler.store.tables.label_sets import now


def _zero(kind: Any = Integer) -> Any:
    return Column(kind, nullable=False, server_default=text("0"))


def _time(nullable: bool = True) -> Any:
    return Column(DateTime(timezone=True), nullable=nullable)


class JobRow(SQLModel, table=True):
    """One request. Its progress is the sum over its blocks, and is stored nowhere else."""

    __tablename__ = "job"

    id: int | None = Field(default=None, primary_key=True)
    kind: str
    state: str = Field(index=True)
    reason: str | None = None
    evidence_id: int | None = Field(default=None, foreign_key="evidence.id")
    label_set_id: int | None = Field(default=None, foreign_key="label_set.id")
    features: str | None = None  # the selection, as it was written
    gather: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
    priority: int  # 0 goes first, 9 last
    budget_usd: float | None = None
    budget_tokens: int | None = Field(default=None, sa_column=Column(BigInteger))
    idempotency_key: str | None = Field(default=None, unique=True)
    request_hash: str
    n_features: int
    n_blocks: int
    # of its last claim: the job that waited longest goes first
    turn: int = Field(default=0, sa_column=_zero(BigInteger))
    created_at: datetime = Field(default_factory=now, sa_column=_time(nullable=False))
    started_at: datetime | None = Field(default=None, sa_column=_time())
    ended_at: datetime | None = Field(default=None, sa_column=_time())
    # The rate counts from the last start or resumption.
    running_since: datetime | None = Field(default=None, sa_column=_time())
    done_before: int = Field(default=0, sa_column=_zero())


class BlockRow(SQLModel, table=True):
    """A range of features (or a step of a gathering pass) that one worker does at a time."""

    __tablename__ = "block"
    __table_args__ = (
        UniqueConstraint("job_id", "number", name="uq_block"),
        Index("ix_block_job_state", "job_id", "state", "stage", "number"),
        Index("ix_block_state", "state"),
    )

    id: int | None = Field(default=None, primary_key=True)
    job_id: int = Field(foreign_key="job.id")
    number: int
    stage: int = Field(default=0, sa_column=_zero())  # waits until all blocks of lower stages are done
    first: int
    last: int
    chosen: str | None = Field(default=None, sa_column=Column(Text))  # the features, where not all of first..last
    n_features: int
    state: str
    reason: str | None = None
    owner: str | None = None
    attempts: int = Field(default=0, sa_column=_zero())  # claims; only the last one may save
    beat: int = Field(default=0, sa_column=_zero(BigInteger))  # grows while the owner lives
    wanted_back: int = Field(default=0, sa_column=_zero())  # another job needs this worker: hand the block back
    lost: int = Field(default=0, sa_column=_zero())  # attempts in a row that ended without progress
    done_when_lost: int = Field(default=0, sa_column=_zero())
    n_labeled: int = Field(default=0, sa_column=_zero())
    n_silent: int = Field(default=0, sa_column=_zero())
    n_rare: int = Field(default=0, sa_column=_zero())
    n_failed: int = Field(default=0, sa_column=_zero())
    requests: int = Field(default=0, sa_column=_zero())
    tokens_in: int = Field(default=0, sa_column=_zero(BigInteger))
    tokens_out: int = Field(default=0, sa_column=_zero(BigInteger))
    # NULL where the price of any part is unknown.
    cost_usd: float | None = Field(default=0.0, sa_column=Column(Float, server_default=text("0")))
    started_at: datetime | None = Field(default=None, sa_column=_time())
    ended_at: datetime | None = Field(default=None, sa_column=_time())


JOBS, BLOCKS = (SQLModel.metadata.tables[name] for name in ("job", "block"))
