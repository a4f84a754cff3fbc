"""Jobs: submit, watch, pause, resume, cancel and retry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from api.access import Reader, Submitter
from api.parameters import PROBLEMS, Cursor, JobId, Limit, SettingsOf, StoreOf
from api.requests import gather_request, recipe_of
from api.seats import SeatedResponse
from labeler.rest_schema import Failure, GatherJobRequest, Job, JobDetail, JobRequest, Page, Text
from labeler.store import Store
from labeler.store.base.cursors import make_cursor, read_cursor
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.progress import failures_of, progress_of
from labeler.store.jobs.states import JobInfo
from labeler.terms import ACTIVE, JobState
from workers.enqueue import refill

router = APIRouter(tags=["jobs"], responses=PROBLEMS)
IdempotencyKey = Annotated[
    Text | None,
    Header(
        max_length=200,
        description="The same key with the same request asks for the same job, however often it is sent.",
    ),
]
_EVENT_SECONDS = 1.0
Announce = Callable[[JobInfo], None]


def _announce(store: StoreOf, settings: SettingsOf, later: BackgroundTasks) -> Announce:
    """Tell the workers after the answer, so that a slow queue does not delay it. They also look by themselves."""

    def announce(info: JobInfo) -> None:
        if settings.redis is not None and info.state is JobState.QUEUED:
            later.add_task(refill, info.kind, store)

    return announce


AnnounceOf = Annotated[Announce, Depends(_announce)]


@router.post("/jobs", status_code=202)
def submit(
    store: StoreOf,
    _: Submitter,
    asked: JobRequest,
    response: Response,
    announce: AnnounceOf,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Label features of an evidence. Answers when the job is written down; it begins within seconds."""
    info = Jobs(store).submit(
        asked.evidence,
        recipe_of(asked),
        asked.features,
        scores_of=asked.scores_of,
        priority=asked.priority,
        budget_usd=asked.budget.usd,
        budget_tokens=asked.budget.tokens,
        idempotency_key=idempotency_key,
    )
    return _accepted(info, response, announce)


@router.post("/jobs:gather", status_code=202)
def submit_gather(
    store: StoreOf,
    settings: SettingsOf,
    _: Submitter,
    asked: GatherJobRequest,
    response: Response,
    announce: AnnounceOf,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Gather evidence of an SAE: prepare, the shards in any order, merge."""
    request = gather_request(asked, settings.data)
    info = Jobs(store).submit_gather(request, priority=asked.priority, idempotency_key=idempotency_key)
    return _accepted(info, response, announce)


def _accepted(info: JobInfo, response: Response, announce: Announce) -> Job:
    announce(info)
    response.headers["Location"] = f"/v1/jobs/{info.id}"
    return Job.model_validate(info)


@router.get("/jobs")
def list_jobs(
    store: StoreOf, _: Reader, limit: Limit = 50, cursor: Cursor = None, state: JobState | None = None
) -> Page[Job]:
    """List jobs, the newest first."""
    before = read_cursor(("jobs", state), cursor, (int,))
    found = Jobs(store).page(before[0] if before else None, limit + 1, state)
    shown = found[:limit]
    return Page[Job].model_validate(
        {"items": shown, "next_cursor": make_cursor(("jobs", state), (shown[-1].id,)) if len(found) > limit else None}
    )


@router.get("/jobs/{job}")
def read_job(store: StoreOf, _: Reader, job: JobId) -> JobDetail:
    """Read a job: its request and its progress."""
    return _detail(store, job)


def _detail(store: Store, job: int) -> JobDetail:
    return JobDetail.model_validate({**vars(Jobs(store).get(job)), "progress": progress_of(store, job)})


@router.get(
    "/jobs/{job}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "A `progress` event for every change."}},
)
def events(store: StoreOf, caller: Reader, request: Request, job: JobId) -> Response:
    """Progress as server-sent events, until the job has ended or is paused. A key may have 20 such streams."""
    Jobs(store).get(job)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return SeatedResponse(
        _events(store, job, request),
        request.app.state.watchers,
        caller.id,
        media_type="text/event-stream",
        headers=headers,
    )


async def _events(store: Store, job: int, request: Request) -> AsyncIterator[str]:
    before = ""
    while not await request.is_disconnected():
        detail = await run_in_threadpool(_detail, store, job)
        now = detail.model_dump_json()
        yield f"event: progress\ndata: {now}\n\n" if now != before else ": still here\n\n"
        if detail.state not in ACTIVE:
            return
        before = now
        await asyncio.sleep(_EVENT_SECONDS)


@router.get("/jobs/{job}/failures")
def list_failures(store: StoreOf, _: Reader, job: JobId, limit: Limit = 50, cursor: Cursor = None) -> Page[Failure]:
    """The failed features of a job, with the reasons."""
    Jobs(store).get(job)
    after = read_cursor(("failures", job), cursor, (int,))
    found = failures_of(store, job, after[0] if after else -1, limit + 1)
    shown = found[:limit]
    more = make_cursor(("failures", job), (shown[-1].feature_index,)) if len(found) > limit else None
    return Page[Failure].model_validate({"items": shown, "next_cursor": more})


# Of (jobs, the job's id, where it was asked for).
CHANGES: dict[str, Callable[[Jobs, int, str], JobInfo]] = {
    "pause": lambda jobs, job, where: jobs.pause(job, f"paused {where}"),
    "resume": lambda jobs, job, _: jobs.resume(job),
    "cancel": lambda jobs, job, where: jobs.cancel(job, f"cancelled {where}"),
    "retry": lambda jobs, job, _: jobs.retry(job),
}


def _changing(word: str, what: str) -> None:
    def route(store: StoreOf, _: Submitter, job: JobId, announce: AnnounceOf) -> JobDetail:
        announce(CHANGES[word](Jobs(store), job, "by request"))
        return _detail(store, job)

    router.post(f"/jobs/{{job}}/{word}", name=f"{word}_job", description=what)(route)


_changing("pause", "Start nothing new; `resume` goes on.")
_changing("resume", "Go on with a paused job.")
_changing("cancel", "Stop for good. Labels stay.")
_changing("retry", "Try failed features of an ended job again, and finish a canceled one.")
