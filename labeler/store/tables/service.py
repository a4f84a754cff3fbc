"""The tables of the service: reviews, API keys, requests for activations, counters. A change here needs a migration."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Index, TypeDecorator
from sqlmodel import Field, SQLModel

from labeler.store.tables.label_sets import now


class Utc(TypeDecorator[datetime]):
    """A time in UTC; SQLite returns it without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, _dialect: object) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class ReviewRow(SQLModel, table=True):
    """A person's review of a label. It stands beside the label, and never replaces one."""

    __tablename__ = "review"
    __table_args__ = (Index("ix_review_label", "label_set_id", "feature_index"),)

    id: int | None = Field(default=None, primary_key=True)
    label_set_id: int = Field(foreign_key="label_set.id")
    feature_index: int
    verdict: str  # "accept", "reject", "corrected" or "comment"
    text: str | None = None  # the corrected label
    comment: str | None = None
    reviewer: str
    reviewed_label: str | None = None  # the text that was judged: a later run may write another one
    created_at: datetime = Field(default_factory=now, sa_column=Column(Utc, nullable=False))
    withdrawn_at: datetime | None = Field(default=None, sa_column=Column(Utc))  # since then it does not count
    withdrawn_by: str | None = None


class StandingRow(SQLModel, table=True):
    """The sum of a label's reviews that were not withdrawn, for queries over a million labels."""

    __tablename__ = "standing"
    __table_args__ = (Index("ix_standing_verdict", "label_set_id", "verdict", "feature_index"),)

    label_set_id: int = Field(primary_key=True, foreign_key="label_set.id")
    feature_index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    verdict: str  # of the newest review
    reviewed_label: str | None = None  # the text that it judged
    text: str | None = None  # the newest label that a person wrote, whatever the later reviews say
    reviewer: str | None = None  # the author of the text
    written_at: datetime | None = Field(default=None, sa_column=Column(Utc))


class ApiKeyRow(SQLModel, table=True):
    """An API key, stored only as a hash. Rows stay when keys are revoked, so that old ids keep their names."""

    __tablename__ = "api_key"

    id: str = Field(primary_key=True)  # the public part of the key
    name: str
    scope: str
    rate: str  # such as "600/minute"
    sha256: str
    created_at: datetime = Field(default_factory=now, sa_column=Column(Utc, nullable=False))
    revoked_at: datetime | None = Field(default=None, sa_column=Column(Utc))


class ActivationRow(SQLModel, table=True):
    """A text whose activations a user wants, and the answer; both are deleted after a while."""

    __tablename__ = "activation_request"

    id: str = Field(primary_key=True)  # cannot be guessed: a client that knows it may read the answer
    state: str  # "waiting", "running", "done", "failed"
    asked: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    answer: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    reason: str | None = None
    created_at: datetime = Field(default_factory=now, sa_column=Column(Utc, nullable=False))


class CounterRow(SQLModel, table=True):
    """Counts of all that has happened, added up over all workers, for `/metrics`."""

    __tablename__ = "counter"

    name: str = Field(primary_key=True)
    label: str = Field(primary_key=True)
    value: float


REVIEWS, STANDINGS, API_KEYS, ACTIVATIONS, COUNTERS = (
    SQLModel.metadata.tables[name] for name in ("review", "standing", "api_key", "activation_request", "counter")
)
