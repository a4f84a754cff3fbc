"""The tables of claims: they record which run is labeling which features. A change here needs a migration."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, String, text
from sqlmodel import Field, SQLModel

from labeler.store.tables.label_sets import now


class RunRow(SQLModel, table=True):
    """A process that labels features: a `labeler label`, or a worker with a block. The row goes when its work ends."""

    __tablename__ = "labeling_run"

    id: str = Field(primary_key=True)
    process: str  # as labeler/store/base/processes.py names it
    block_id: int | None = Field(default=None, index=True)  # taking the block back takes these claims back too
    beat: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default=text("0")))
    started_at: datetime = Field(default_factory=now, sa_column=Column(DateTime(timezone=True), nullable=False))


class ClaimRow(SQLModel, table=True):
    """A feature that a run is labeling. `work` names the label set, which need not exist yet."""

    __tablename__ = "claim"

    work: str = Field(primary_key=True)
    feature_index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    run_id: str = Field(
        sa_column=Column(String, ForeignKey("labeling_run.id", ondelete="CASCADE"), nullable=False, index=True)
    )


RUNS, CLAIMS = (SQLModel.metadata.tables[name] for name in ("labeling_run", "claim"))
