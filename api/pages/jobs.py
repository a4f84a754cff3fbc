"""Pages of jobs: the list, and one job with its progress, controls and failures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from api.access import Caller
from api.pages.access import Editor, Viewer
from api.pages.render import render
from api.parameters import Cursor, JobId, StoreOf
from api.routes.jobs import CHANGES, AnnounceOf
from labeler.errors import ConflictError
from labeler.store import Store
from labeler.store.base.cursors import make_cursor, read_cursor
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.progress import failures_of, progress_of
from labeler.store.jobs.states import JobInfo
from labeler.store.label_sets import catalogue
from labeler.terms import ACTIVE, JobKind, JobState, Scope

router = APIRouter()
_JOBS, _FAILURES = 25, 50  # on a page
Ids = Annotated[str, Query(pattern=rf"^[0-9]{{1,9}}(,[0-9]{{1,9}}){{0,{_JOBS - 1}}}$")]
After = Annotated[int, Query(ge=-1, le=2**31 - 1)]


@router.get("/jobs")
def job_list(
    request: Request, store: StoreOf, caller: Viewer, cursor: Cursor = None, state: JobState | None = None
) -> Response:
    before = read_cursor(("job pages", state), cursor, (int,))
    found = Jobs(store).page(before[0] if before else None, _JOBS + 1, state)
    shown = [(job, progress_of(store, job.id)) for job in found[:_JOBS]]
    more = make_cursor(("job pages", state), (found[_JOBS - 1].id,)) if len(found) > _JOBS else None
    return render(
        request,
        "jobs.html.j2",
        jobs=shown,
        state=state,
        states=list(JobState),
        next_cursor=more,
        first=cursor is None,
        may_change=_may_change(caller),
        active=ACTIVE,
    )


@router.get("/jobs/lines")
def job_lines(request: Request, store: StoreOf, _: Viewer, ids: Ids) -> Response:
    """Show the progress of running jobs in the list, in one request for all, which the page repeats."""
    jobs = [(Jobs(store).get(int(job)), progress_of(store, int(job))) for job in ids.split(",")]
    return render(request, "job_lines.html.j2", jobs=jobs, active=ACTIVE, swaps=True)


@router.get("/jobs/{job}")
def job_page(request: Request, store: StoreOf, caller: Viewer, job: JobId, after: After = -1) -> Response:
    return _page(request, store, caller, Jobs(store).get(job), after)


def _page(
    request: Request, store: StoreOf, caller: Caller, job: JobInfo, after: int = -1, problem: str | None = None
) -> Response:
    return render(
        request,
        "job.html.j2",
        200 if problem is None else 409,
        problem=problem,
        sae=_sae_of(store, job),
        **_now(store, caller, job),
        **_failures(store, job, after),
    )


@router.get("/jobs/{job}/live")
def job_live(
    request: Request, store: StoreOf, caller: Viewer, job: JobId, seen: Annotated[str, Query(max_length=20)] = ""
) -> Response:
    """The figures, and what may be done where the state is no longer the one that was `seen`."""
    info = Jobs(store).get(job)
    return render(request, "job_live.html.j2", changed=info.state != seen, **_now(store, caller, info))


@router.get("/jobs/{job}/failures")
def job_failures(request: Request, store: StoreOf, _: Viewer, job: JobId, after: After = -1) -> Response:
    info = Jobs(store).get(job)
    return render(
        request,
        "job_failures.html.j2",
        job=info,
        sae=_sae_of(store, info),
        active=ACTIVE,
        **_failures(store, info, after),
    )


@router.post("/jobs/{job}/{word}")
def change_job(
    request: Request,
    store: StoreOf,
    caller: Editor,
    announce: AnnounceOf,
    job: JobId,
    word: Annotated[str, Path(pattern=f"^({'|'.join(CHANGES)})$")],
) -> Response:
    jobs = Jobs(store)
    try:
        announce(CHANGES[word](jobs, job, "on its page"))
    except ConflictError as error:  # it has gone on while the page was looked at
        return _page(request, store, caller, jobs.get(job), problem=str(error))
    return RedirectResponse(f"/jobs/{job}", 303)


def _now(store: Store, caller: Caller, job: JobInfo) -> dict[str, Any]:
    return {"job": job, "p": progress_of(store, job.id), "may_change": _may_change(caller), "active": ACTIVE}


def _may_change(caller: Caller) -> bool:
    return caller.scope.includes(Scope.SUBMIT)


def _failures(store: Store, job: JobInfo, after: int) -> dict[str, Any]:
    """The failed features behind `after`, and where the next page begins."""
    found = failures_of(store, job.id, after, _FAILURES + 1) if job.kind is JobKind.LABEL else []
    more = found[_FAILURES - 1].feature_index if len(found) > _FAILURES else None
    return {"failures": found[:_FAILURES], "next_after": more, "after": after}


def _sae_of(store: Store, job: JobInfo) -> catalogue.SaeInfo | None:
    """None while a gathering pass has not come to an end."""
    if job.evidence_id is None:
        return None
    return catalogue.find_sae(store, str(catalogue.find_evidence(store, str(job.evidence_id)).sae_id))
