"""Texts that wait for their activations: gather workers answer them, one at a time, as soon as they are free.

    waiting ──claim──► running ──► done | failed
       └── no worker took it, or not in time: failed

No user owns a text: requests are deleted an hour after they came, answered or not.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from labeler.errors import InputError, NotFoundError
from labeler.evidence.store import BY_OTHERS
from labeler.store.base.store import Store
from labeler.store.jobs.states import BlockState
from labeler.store.label_sets.catalogue import EvidenceInfo, find_evidence, newest_evidence
from labeler.store.tables.imported import NO_FOLDER
from labeler.store.tables.jobs import BLOCKS, JOBS
from labeler.store.tables.label_sets import EVIDENCE, now
from labeler.store.tables.service import ACTIVATIONS
from labeler.terms import OPEN, JobKind, RequestState

MOST_TOKENS = 4_096
MOST_WAITING = 50
_MOST_EVIDENCE = 500  # at most so many of one SAE are looked through

NOBODY = timedelta(seconds=30)  # a gather worker that is free takes a text within a second
PATIENCE = timedelta(minutes=5)  # how long a busy gather worker is waited for
KEPT = timedelta(hours=1)


@dataclass(frozen=True)
class ActivationRequest:
    """A text to read, and the state of its answer."""

    id: str
    state: RequestState
    asked: dict[str, Any]  # sae, evidence, the subject's id, revision and dtype, text
    answer: dict[str, Any] | None
    reason: str | None  # why there is no answer (yet)
    created_at: datetime


def readable_evidence(store: Store, sae: int) -> EvidenceInfo:
    """Return the newest evidence that was gathered here from this SAE.

    Such evidence says with which subject and SAE a text can be read. Raises NotFoundError or InputError.
    """
    newest = newest_evidence(store, sae)
    has_folder = (EVIDENCE.c.sae_id == sae) & ~EVIDENCE.c.path.startswith(NO_FOLDER)
    newest_first = select(EVIDENCE.c.id).where(has_folder).order_by(EVIDENCE.c.id.desc()).limit(_MOST_EVIDENCE)
    with store.database.reading() as connection:
        ids = connection.execute(newest_first).scalars().all()
    for evidence_id in ids:
        if BY_OTHERS not in store.evidence(evidence_id)[0]:
            return find_evidence(store, str(evidence_id))
    raise InputError(
        f"evidence {newest.id} of SAE {sae} was not gathered here: neither the subject nor the SAE is known to read a text with"
    )


class Activations:
    """The table of requests for activations; every method is one short transaction."""

    def __init__(self, store: Store) -> None:
        self._store, self._database = store, store.database

    def ask(self, evidence: EvidenceInfo, text: str) -> ActivationRequest:
        """Add a request under an id that cannot be guessed.

        A client that knows the id may read the text and the answer.
        """
        subject = self._store.evidence(evidence.id)[0]["subject"]
        asked = {
            "sae": evidence.sae_id,
            "evidence": evidence.id,
            "text": text,
            **{name: subject[name] for name in ("id", "revision", "dtype")},
        }
        request_id = secrets.token_urlsafe(24)
        values = {"id": request_id, "state": RequestState.WAITING, "asked": asked, "created_at": now()}
        with self._database.writing() as connection:
            connection.execute(ACTIVATIONS.insert().values(**values))
        return self._find(request_id)

    def get(self, request_id: str) -> ActivationRequest:
        """Return the request; one that waited in vain is `failed`, with the reason. Raises NotFoundError."""
        request = self._find(request_id)
        if request.state not in OPEN:
            return request
        busy, age = self._busy(request_id), now() - request.created_at
        reason = _in_vain(request.state, busy, age)
        if reason is not None and self._end(request_id, RequestState.FAILED, reason=reason):
            return self._find(request_id)
        if request.state is RequestState.WAITING and busy:
            until = f"{request.created_at + PATIENCE:%H:%M:%S} UTC"
            request = ActivationRequest(**{**vars(request), "reason": f"{busy}; this text waits until {until}"})
        return request

    def _find(self, request_id: str) -> ActivationRequest:
        with self._database.reading() as connection:
            row = connection.execute(select(ACTIVATIONS).where(ACTIVATIONS.c.id == request_id)).mappings().one_or_none()
        if row is None or now() - row["created_at"] > KEPT:
            raise NotFoundError("activations: no such request; requests are deleted an hour after they came")
        return ActivationRequest(**{**row, "state": RequestState(row["state"])})

    def _busy(self, but: str) -> str | None:
        """Say in words which work keeps the gather workers busy; None where they are free."""
        steps = (
            select(BLOCKS.c.job_id, BLOCKS.c.number + 1, JOBS.c.n_blocks)
            .join(JOBS, JOBS.c.id == BLOCKS.c.job_id)
            .where(JOBS.c.kind == JobKind.GATHER, BLOCKS.c.state == BlockState.LEASED)
        )
        texts = select(func.count()).where(ACTIVATIONS.c.state == RequestState.RUNNING, ACTIVATIONS.c.id != but)
        with self._database.reading() as connection:
            step = connection.execute(steps.order_by(BLOCKS.c.id).limit(1)).one_or_none()
            if step is not None:
                return "the gather worker is busy with job {}, step {} of {}".format(*step)
            return "another text is being read" if connection.execute(texts).scalar_one() else None

    def n_open(self) -> int:
        return self._count(OPEN)

    def n_waiting(self) -> int:
        return self._count((RequestState.WAITING,))

    def _count(self, states: tuple[RequestState, ...]) -> int:
        recent = ACTIVATIONS.c.created_at > now() - PATIENCE
        with self._database.reading() as connection:
            found = select(func.count()).where(ACTIVATIONS.c.state.in_(states), recent)
            return int(connection.execute(found).scalar_one())

    def claim(self, subject: tuple[str, str, str] | None = None) -> ActivationRequest | None:
        """Take the text that has waited longest; with `subject` (id, revision, dtype), only a text for that subject."""
        waits = (ACTIVATIONS.c.state == RequestState.WAITING) & (ACTIVATIONS.c.created_at > now() - PATIENCE)
        waiting = select(ACTIVATIONS.c.id, ACTIVATIONS.c.asked).where(waits).order_by(ACTIVATIONS.c.created_at)
        with self._database.reading() as connection:
            found = connection.execute(waiting).all()
        for request_id, asked in found:
            is_of = subject in (None, tuple(asked[name] for name in ("id", "revision", "dtype")))
            if is_of and self._move(request_id, RequestState.WAITING, {"state": RequestState.RUNNING}):
                return self._find(request_id)
        return None

    def finish(self, request_id: str, answer: dict[str, Any]) -> bool:
        return self._end(request_id, RequestState.DONE, answer=answer)

    def fail(self, request_id: str, reason: str) -> bool:
        return self._end(request_id, RequestState.FAILED, reason=reason)

    def _end(self, request_id: str, state: RequestState, **values: Any) -> bool:
        return any(self._move(request_id, before, {"state": state, **values}) for before in OPEN)

    def _move(self, request_id: str, before: RequestState, values: dict[str, Any]) -> bool:
        """Change a request that is in the state `before`; False where another process has changed it meanwhile."""
        mine = (ACTIVATIONS.c.id == request_id) & (ACTIVATIONS.c.state == before)
        with self._database.writing() as connection:
            return bool(connection.execute(ACTIVATIONS.update().where(mine).values(**values)).rowcount)

    def forget_old(self) -> None:
        old = ACTIVATIONS.c.created_at < now() - KEPT
        with self._database.reading() as connection:
            n = connection.execute(select(func.count()).where(old)).scalar_one()
        if n:
            with self._database.writing() as connection:
                connection.execute(ACTIVATIONS.delete().where(old))


def _in_vain(state: RequestState, busy: str | None, age: timedelta) -> str | None:
    """Explain why an open request will get no answer; None while an answer may still come."""
    if state is RequestState.RUNNING:
        return "a worker took this text and gave no answer: it was lost, or took too long" if age > PATIENCE else None
    if busy is None and age > NOBODY:
        return f"no gather worker took this text within {NOBODY.seconds} seconds: start one with `labeler worker --queues gather`"
    if age > PATIENCE:
        return (
            f"{busy or 'no gather worker took this text'}, and {PATIENCE.seconds // 60} minutes have passed: ask again later, or "
            "start a worker only for texts with `labeler worker --queues activations`"
        )
    return None
