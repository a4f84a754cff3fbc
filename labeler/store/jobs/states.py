"""The values of jobs and blocks: the request, its states, and a block that a worker has leased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from labeler.errors import InputError
from labeler.names import read_name
from labeler.recipe import GatherConfig
from labeler.records import State
from labeler.selection import parse_features
from labeler.terms import JobKind, JobState


class BlockState(StrEnum):
    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"


DONE_COUNTS = (State.LABELED, State.SILENT, State.RARE)


class HolderOrder(StrEnum):
    """The next action of a block's holder."""

    GO_ON = "go on"
    STOP = "stop"  # the job is paused or canceled, or another job needs this worker: give the block back
    LOST = "lost"  # another attempt has the block: drop it


@dataclass(frozen=True)
class Lease:
    """A block that one worker has leased."""

    block_id: int
    job_id: int
    kind: JobKind
    number: int
    stage: int
    attempt: int
    first: int
    last: int
    chosen: str | None
    label_set_id: int | None
    gather: dict[str, Any] | None
    budget_usd: float | None
    budget_tokens: int | None

    @property
    def features(self) -> Sequence[int]:
        """Return the ascending feature indices; for a gathering pass, the number of its shard."""
        every = range(self.first, self.last + 1)
        return every if self.chosen is None else parse_features(self.chosen, self.last + 1)


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life from the holder of a block."""

    block_id: int
    attempt: int
    beat: int


@dataclass(frozen=True)
class GatherRequest:
    """A gathering pass as a job: the options of `labeler gather`. Paths are those of the gather workers."""

    subject: str
    sae: str
    corpus: str
    out: str  # the evidence folder
    hookpoint: str | None = None
    revision: str | None = None
    text_field: str = "text"
    n_shards: int = 1
    config: GatherConfig = field(default_factory=GatherConfig)
    name: str | None = None  # `SUBJECT / SAE`, for people
    force: bool = False  # also where the SAE explains so little that it may read another vector

    def __post_init__(self) -> None:
        if not 1 <= self.n_shards <= 10_000:
            raise InputError(f"n_shards is {self.n_shards}: choose between 1 and 10,000")
        read_name(self.name)

    def to_dict(self) -> dict[str, Any]:
        values = {**asdict(self), "config": self.config.to_dict()}
        # Requests without these keep their old form, by which an idempotency key recognizes them.
        absent = {key for key in ("name", "force") if not values[key]}
        return {key: value for key, value in values.items() if key not in absent}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GatherRequest:
        return cls(**{**values, "config": GatherConfig.from_dict(values["config"])})


@dataclass(frozen=True)
class JobInfo:
    """A request and its present state."""

    id: int
    kind: JobKind
    state: JobState
    reason: str | None  # why it is paused, failed or canceled
    evidence_id: int | None
    label_set_id: int | None
    features: str | None
    recipe: dict[str, Any] | None
    gather: dict[str, Any] | None
    priority: int
    budget_usd: float | None
    budget_tokens: int | None
    idempotency_key: str | None
    n_features: int
    n_blocks: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
