"""Words and limits that the database, the service and its clients share. Importing them loads no library."""

from __future__ import annotations

from enum import StrEnum

LONGEST_LABEL, LONGEST_COMMENT = 200, 2000  # characters
MOST_CHARACTERS = 20_000  # of a text that people ask about


class JobKind(StrEnum):
    LABEL = "label"
    GATHER = "gather"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


ACTIVE = (JobState.QUEUED, JobState.RUNNING)
UNFINISHED = (*ACTIVE, JobState.PAUSED)


class RequestState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


OPEN = (RequestState.WAITING, RequestState.RUNNING)


class Scope(StrEnum):
    """The rights of a key. Each scope includes those before it."""

    READ = "read"
    SUBMIT = "submit"  # jobs and reviews
    ADMIN = "admin"  # keys

    def includes(self, other: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


class Choose(StrEnum):
    """The choice among the labels of a feature that has several."""

    DEFAULT = "default"  # of the default label set for the feature (labeler/store/label_sets/choice.py)
    NEWEST = "newest"  # of the newest label set that has one
    BEST = "best"  # with the highest score
    PERSON = "person"  # written by a person, in the newest label set that has one; else as `default`


class Verdict(StrEnum):
    ACCEPT = "accept"
    REJECT = "reject"
    CORRECTED = "corrected"  # comes with a corrected text
    COMMENT = "comment"  # words only: earlier verdicts on the label remain

    @classmethod
    def _missing_(cls, value: object) -> Verdict | None:
        return cls.CORRECTED if value == "better" else None  # as earlier versions wrote it
