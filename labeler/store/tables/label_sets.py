"""The tables of label sets and results. A change here needs a migration in migrations/versions; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, DateTime, Index, UniqueConstraint
from sqlmodel import Field, SQLModel


def now() -> datetime:
    return datetime.now(UTC)


def in_utc(time: datetime) -> datetime:
    """Put the zone on a time from SQLite, which returns it without one: always UTC."""
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _json(nullable: bool = False) -> Any:
    return Column(JSON, nullable=nullable)


def _count() -> Any:
    return Column(BigInteger, nullable=False)


def _time() -> Any:
    return Column(DateTime(timezone=True), nullable=False)


class SAERow(SQLModel, table=True):
    __tablename__ = "sae"
    __table_args__ = (UniqueConstraint("subject", "revision", "hookpoint", "sha256", name="uq_sae"),)

    id: int | None = Field(default=None, primary_key=True)
    subject: str
    revision: str
    hookpoint: str
    path: str
    format: str
    architecture: str
    sha256: str
    n_features: int
    d_in: int | None = None  # NULL where the source of the evidence does not give it
    # Names for people, where any were given; results depend on the columns above.
    subject_name: str | None = None
    name: str | None = None


class EvidenceRow(SQLModel, table=True):
    __tablename__ = "evidence"

    id: int | None = Field(default=None, primary_key=True)
    hash: str = Field(unique=True)
    sae_id: int = Field(foreign_key="sae.id", index=True)
    path: str
    manifest: dict[str, Any] = Field(sa_column=_json())
    created_at: datetime = Field(default_factory=now, sa_column=_time())


class LabelSetRow(SQLModel, table=True):
    __tablename__ = "label_set"
    __table_args__ = (UniqueConstraint("evidence_id", "recipe_hash", name="uq_label_set"),)

    id: int | None = Field(default=None, primary_key=True)
    evidence_id: int = Field(foreign_key="evidence.id")
    recipe_hash: str
    recipe: dict[str, Any] = Field(sa_column=_json())
    explainer: str
    simulator: str
    created_at: datetime = Field(default_factory=now, sa_column=_time())


class ResultRow(SQLModel, table=True):
    """The result for one feature in one label set. An undefined score is NULL, and `score_reason` says why."""

    __tablename__ = "result"
    __table_args__ = (
        Index("ix_result_state", "label_set_id", "state", "feature_index"),
        Index("ix_result_score", "label_set_id", "score", "feature_index", "score_low", "density", "score_high"),
        Index(
            "ix_result_density", "label_set_id", "density", "feature_index", "state", "score", "score_low", "score_high"
        ),
        Index(
            "ix_result_feature", "label_set_id", "feature_index", "state", "score", "score_low", "score_high", "density"
        ),
    )

    label_set_id: int = Field(primary_key=True, foreign_key="label_set.id")
    feature_index: int = Field(primary_key=True)
    state: str
    reason: str | None = None
    label: str | None = None
    explainer: str | None = None
    score: float | None = None
    score_reason: str | None = None
    score_low: float | None = None
    score_high: float | None = None
    score_n: int | None = None
    score_null_z: float | None = None
    score_null_p: float | None = None
    baseline_token_lookup: float | None = None
    score_weighted: float | None = None
    score_weighted_low: float | None = None
    score_weighted_high: float | None = None
    detection: float | None = None
    fuzzing: float | None = None
    # NULL where the source of the evidence does not give them.
    density: float | None = None
    max_activation: float | None = None
    n_firings: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    requests: int
    tokens_in: int = Field(sa_column=_count())
    tokens_out: int = Field(sa_column=_count())
    cost_usd: float | None = None  # NULL where the price is unknown
    scores: list[dict[str, Any]] = Field(sa_column=_json())
    simulations: list[dict[str, Any]] = Field(sa_column=_json())
    label_table: dict[str, Any] | None = Field(default=None, sa_column=_json(nullable=True))
    origin: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    statistics: dict[str, Any] = Field(sa_column=_json())
    created_at: datetime = Field(default_factory=now, sa_column=_time())


class ReplyRow(SQLModel, table=True):
    """The ledger of LLM replies: no reply that was paid for is bought again."""

    __tablename__ = "llm_reply"

    key: str = Field(primary_key=True)
    text: str
    finish_reason: str
    model: str
    tokens_in: int = Field(sa_column=_count())
    tokens_out: int = Field(sa_column=_count())
    purpose: str
    detail: Any = Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))
    price_factor: float = 1.0
    created_at: datetime = Field(default_factory=now, sa_column=_time())


class BatchRow(SQLModel, table=True):
    """A batch of requests in progress at an endpoint.

    The row is written before the batch is requested, so that none is requested twice.
    """

    __tablename__ = "llm_batch"

    id: str = Field(primary_key=True)  # ours; the endpoint's batch carries it as metadata
    endpoint: str = Field(index=True)
    path: str
    model: str
    purpose: str
    n_requests: int
    batch_id: str | None = None  # the endpoint's; NULL until we have heard it
    state: str  # "submitting", "submitted", "collected"
    created_at: datetime = Field(default_factory=now, sa_column=_time())


SAES, EVIDENCE, LABEL_SETS, RESULTS, REPLIES, BATCHES = (
    SQLModel.metadata.tables[name] for name in ("sae", "evidence", "label_set", "result", "llm_reply", "llm_batch")
)
