"""Jobs: each is one request, to apply a recipe to a selection of features or to run a gathering pass.

    queued ──► running ──► done | failed
       └─ paused ─┘           │ retry: back to queued
       └─ cancelled ──────────┘

A job is accepted in one transaction and cut into blocks, each a row. Its progress is the sum over its blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, case, func, select
from sqlalchemy.exc import IntegrityError

from labeler.errors import ConflictError, InputError, NotFoundError
from labeler.recipe import Recipe
from labeler.selection import select_features
from labeler.store.base.store import Store
from labeler.store.jobs.blocks import end_if_over
from labeler.store.jobs.states import BlockState, GatherRequest, JobInfo
from labeler.store.label_sets.selection_facts import StoredFacts
from labeler.store.tables.claims import RUNS
from labeler.store.tables.imported import NO_FOLDER
from labeler.store.tables.jobs import BLOCKS, JOBS
from labeler.store.tables.label_sets import LABEL_SETS, now
from labeler.terms import ACTIVE, UNFINISHED, JobKind, JobState

_ROWS_AT_ONCE = 2_000
# Features: enough blocks to share a small job out, few enough to keep a large one cheap.
BLOCK_SIZES = (16, 128)
LONGEST_SELECTION = 1_000_000  # characters
_LISTED = 200  # characters of a selection that a list of jobs shows


class Jobs:
    """The table of jobs. Raises NotFoundError, ConflictError (in the wrong state) or InputError."""

    def __init__(self, store: Store, block_sizes: tuple[int, int] = BLOCK_SIZES) -> None:
        self._store = store
        self._database = store.database
        self._block_sizes = block_sizes

    def submit(
        self,
        evidence_id: int,
        recipe: Recipe,
        features: str = "all",
        *,
        scores_of: int | None = None,
        priority: int = 5,
        budget_usd: float | None = None,
        budget_tokens: int | None = None,
        idempotency_key: str | None = None,
    ) -> JobInfo:
        """Add a job that labels the selected features of an evidence.

        `scores_of` names the label set that the condition `score<...` is about. A request with the idempotency key of
        an earlier, equal request returns the earlier job.
        """
        asked = {
            "evidence": evidence_id,
            "recipe": recipe.hash,
            "features": features,
            "scores_of": scores_of,
            "priority": priority,
            "budget": [budget_usd, budget_tokens],
        }
        if (earlier := self._by_key(idempotency_key, _hash(asked))) is not None:
            return earlier
        check_request(features, budget_usd, budget_tokens)
        _check_priority(priority)
        manifest, path = self._store.evidence(evidence_id)
        if path.startswith(NO_FOLDER):
            raise ConflictError(
                f"evidence {evidence_id} stands for a label set that was imported from {path.removeprefix(NO_FOLDER)}: there "
                "is nothing to label from; name evidence that was gathered"
            )
        facts = StoredFacts(self._store, self._label_set_of(evidence_id, recipe), evidence_id, scores_of)
        chosen = select_features(features, manifest["sae"]["n_features"], facts)
        if len(chosen) == 0:
            raise InputError(f"features {features[:_LISTED]!r}: no feature is selected")
        blocks = list(_cut(chosen, *self._block_sizes))
        # Last: a refused request must leave no label set, which would be the newest one.
        label_set = self._store.label_set_for(manifest, path, recipe)
        values = {
            "kind": JobKind.LABEL,
            "evidence_id": evidence_id,
            "label_set_id": label_set.id,
            "features": features,
            "budget_usd": budget_usd,
            "budget_tokens": budget_tokens,
            "n_features": len(chosen),
        }
        return self._insert(values, blocks, priority, idempotency_key, _hash(asked))

    def _label_set_of(self, evidence_id: int, recipe: Recipe) -> int:
        """Return the label set that such a job fills; 0 where it must still be made."""
        this = (LABEL_SETS.c.evidence_id == evidence_id) & (LABEL_SETS.c.recipe_hash == recipe.hash)
        with self._database.reading() as connection:
            return connection.execute(select(LABEL_SETS.c.id).where(this)).scalar_one_or_none() or 0

    def submit_gather(
        self, request: GatherRequest, *, priority: int = 5, idempotency_key: str | None = None
    ) -> JobInfo:
        """Add a job that gathers evidence: prepare, then the shards in any order, then merge."""
        asked = {"gather": request.to_dict(), "priority": priority}
        if (earlier := self._by_key(idempotency_key, _hash(asked))) is not None:
            return earlier
        _check_priority(priority)
        n = request.n_shards
        stages = [0] + [1] * n + [2]
        blocks = [
            {"number": i, "stage": stage, "first": i, "last": i, "chosen": None, "n_features": 0}
            for i, stage in enumerate(stages)
        ]
        values = {"kind": JobKind.GATHER, "gather": request.to_dict(), "n_features": 0}
        return self._insert(values, blocks, priority, idempotency_key, _hash(asked))

    def _by_key(self, key: str | None, request_hash: str) -> JobInfo | None:
        if key is None:
            return None
        query = select(JOBS.c.id, JOBS.c.request_hash).where(JOBS.c.idempotency_key == key)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.request_hash != request_hash:
            raise ConflictError(f"idempotency key {key!r} belongs to job {row.id}, another request: choose a new key")
        return self.get(row.id)

    def _insert(
        self, values: dict[str, Any], blocks: list[dict[str, Any]], priority: int, key: str | None, request_hash: str
    ) -> JobInfo:
        common = {"state": JobState.QUEUED, "priority": priority, "idempotency_key": key, "request_hash": request_hash}
        values = {**values, **common, "n_blocks": len(blocks), "created_at": now()}
        try:
            with self._database.writing() as connection:
                job_id = int(connection.execute(JOBS.insert().values(**values).returning(JOBS.c.id)).scalar_one())
                rows = ({**block, "job_id": job_id, "state": BlockState.QUEUED} for block in blocks)
                while part := list(islice(rows, _ROWS_AT_ONCE)):
                    connection.execute(BLOCKS.insert(), part)
        except IntegrityError:  # the same key at the same time
            if (earlier := self._by_key(key, request_hash)) is not None:
                return earlier
            raise
        return self.get(job_id)

    def get(self, job_id: int) -> JobInfo:
        with self._database.reading() as connection:
            row = connection.execute(_infos().where(JOBS.c.id == job_id)).mappings().one_or_none()
        if row is None:
            raise _no_job(job_id)
        return _info(row)

    def page(self, before: int | None = None, limit: int = 50, state: JobState | None = None) -> list[JobInfo]:
        """List jobs by falling id, those before the cursor `before`: the last id of the previous page.

        Long selections are cut.
        """
        query = _infos(_cut_short(JOBS.c.features)).order_by(JOBS.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(JOBS.c.id < before)
        if state is not None:
            query = query.where(JOBS.c.state == state)
        with self._database.reading() as connection:
            return [_info(row) for row in connection.execute(query).mappings()]

    def pause(self, job_id: int, reason: str | None = None) -> JobInfo:
        """Pause a job: no new feature begins, and those in hand are finished or given back within seconds."""
        return self._change(
            job_id, ACTIVE, {"state": JobState.PAUSED, "reason": reason, "running_since": None}, "paused"
        )

    def resume(self, job_id: int) -> JobInfo:
        values = {"state": JobState.QUEUED, "reason": None, "running_since": None, "done_before": _n_done(job_id)}
        return self._change(job_id, (JobState.PAUSED,), values, "resumed")

    def cancel(self, job_id: int, reason: str | None = None) -> JobInfo:
        """Cancel a job: no new feature begins. Labels that exist stay, and `retry` does the rest."""
        values = {"state": JobState.CANCELLED, "reason": reason, "ended_at": now(), "running_since": None}
        return self._change(job_id, UNFINISHED, values, "cancelled")

    def fail(self, job_id: int, reason: str) -> JobInfo:
        """End a job whose request cannot be fulfilled.

        For example its evidence is gone, or its subject does not fit. `retry` tries again.
        """
        values = {"state": JobState.FAILED, "reason": reason, "ended_at": now(), "running_since": None}
        return self._change(job_id, UNFINISHED, values, "failed")

    def gathered(self, job_id: int, evidence_id: int) -> None:
        """Record the evidence that the pass of this job has made."""
        with self._database.writing() as connection:
            connection.execute(JOBS.update().where(JOBS.c.id == job_id).values(evidence_id=evidence_id))

    def retry(self, job_id: int) -> JobInfo:
        """Queue an ended job again, for its failed features, failed blocks, and the rest after a cancellation."""
        ended = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
        again = (BLOCKS.c.job_id == job_id) & ((BLOCKS.c.state == BlockState.FAILED) | (BLOCKS.c.n_failed > 0))
        values = {
            "state": JobState.QUEUED,
            "reason": None,
            "ended_at": None,
            "running_since": None,
            "done_before": _n_done(job_id),
        }
        fresh = {"state": BlockState.QUEUED, "lost": 0, "done_when_lost": 0, "reason": None, "ended_at": None}
        with self._database.writing() as connection:
            self._changed(connection, job_id, ended, values, "retried")
            connection.execute(BLOCKS.update().where(again, BLOCKS.c.state != BlockState.LEASED).values(**fresh))
            # Where nothing had failed there is nothing to do, and the job ends again.
            end_if_over(connection, job_id)
        return self.get(job_id)

    def begin_again(self) -> None:
        """Let every leased block wait again, and count rates from now.

        Call this only while no worker is alive.
        """
        with self._database.writing() as connection:
            in_hand = BLOCKS.update().where(BLOCKS.c.state == BlockState.LEASED)
            connection.execute(in_hand.values(state=BlockState.QUEUED, owner=None))
            connection.execute(RUNS.delete().where(RUNS.c.block_id.is_not(None)))
            running = JOBS.update().where(JOBS.c.state == JobState.RUNNING)
            connection.execute(running.values(running_since=None, done_before=_n_done(JOBS.c.id)))

    def _change(self, job_id: int, states: Sequence[JobState], values: dict[str, Any], word: str) -> JobInfo:
        with self._database.writing() as connection:
            self._changed(connection, job_id, states, values, word)
        return self.get(job_id)

    def _changed(
        self, connection: Connection, job_id: int, states: Sequence[JobState], values: dict[str, Any], word: str
    ) -> None:
        change = JOBS.update().where(JOBS.c.id == job_id, JOBS.c.state.in_(states)).values(**values)
        if connection.execute(change).rowcount:
            return
        state = connection.execute(select(JOBS.c.state).where(JOBS.c.id == job_id)).scalar_one_or_none()
        if state is None:
            raise _no_job(job_id)
        raise ConflictError(f"job {job_id} is {state} and cannot be {word}: only one that is {' or '.join(states)} can")


def check_request(features: str, budget_usd: float | None, budget_tokens: int | None) -> None:
    if features.lstrip().startswith("@") or "@" in features:
        raise InputError("features: a job cannot read a file; give the list itself, such as 1,5,9")
    if len(features) > LONGEST_SELECTION:
        raise InputError(f"features: {len(features):,} characters are too many; select by condition or range")
    for name, budget in (("budget_usd", budget_usd), ("budget_tokens", budget_tokens)):
        if budget is not None and not budget > 0:
            raise InputError(f"{name} is {budget}: a job needs more than 0; leave it out for no limit")


def _check_priority(priority: int) -> None:
    if not 0 <= priority <= 9:
        raise InputError(f"priority is {priority}: choose between 0 (first) and 9 (last)")


def _cut(chosen: Sequence[int], smallest: int, largest: int) -> Iterator[dict[str, Any]]:
    size = max(smallest, min(largest, len(chosen) // 16))
    for number, low in enumerate(range(0, len(chosen), size)):
        part = chosen[low : low + size]
        whole = part[-1] - part[0] + 1 == len(part)
        yield {
            "number": number,
            "first": part[0],
            "last": part[-1],
            "n_features": len(part),
            "chosen": None if whole else ",".join(map(str, part)),
        }


def _no_job(job_id: int) -> NotFoundError:
    return NotFoundError(f"job {job_id}: there is none here")


def _n_done(job_id: Any) -> Any:
    done = BLOCKS.c.n_labeled + BLOCKS.c.n_silent + BLOCKS.c.n_rare
    return select(func.coalesce(func.sum(done), 0)).where(BLOCKS.c.job_id == job_id).scalar_subquery()


def _hash(asked: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _infos(features: Any = JOBS.c.features) -> Any:
    own = [JOBS.c[name] for name in JobInfo.__dataclass_fields__ if name not in ("recipe", "features")]
    return select(*own, features, LABEL_SETS.c.recipe).join(
        LABEL_SETS, LABEL_SETS.c.id == JOBS.c.label_set_id, isouter=True
    )


def _cut_short(text: Any) -> Any:
    """Cut a column in the query: a selection may take a megabyte, and a list shows only its beginning."""
    is_long = func.length(text) > _LISTED
    return case((is_long, func.substr(text, 1, _LISTED).concat("…")), else_=text).label(text.name)


def _info(row: Any) -> JobInfo:
    return JobInfo(**{**row, "kind": JobKind(row["kind"]), "state": JobState(row["state"])})
