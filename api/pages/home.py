"""The first page: SAEs, their label sets in numbers, and the jobs that run."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.pages.access import Viewer
from api.pages.render import render
from api.parameters import Cursor, StoreOf, after_id
from labeler.store import LabelSetSummary, Store
from labeler.store.base.cursors import make_cursor
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.progress import JobProgress, progress_of
from labeler.store.jobs.states import JobInfo
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.catalogue import SaeInfo, SetInfo
from labeler.terms import JobState

router = APIRouter()
_SAES = 20  # on a page
_SETS = 12  # of an SAE, the newest
_JOBS = 8  # of each state


@dataclass(frozen=True)
class SetLine:
    info: SetInfo
    summary: LabelSetSummary


@dataclass(frozen=True)
class SaeLine:
    info: SaeInfo
    sets: tuple[SetLine, ...]  # the newest first
    n_sets: int


@router.get("/")
def home(request: Request, store: StoreOf, _: Viewer, cursor: Cursor = None) -> Response:
    found = catalogue.list_saes(store, after_id("home", cursor), _SAES + 1)
    saes = [_line(store, info) for info in found[:_SAES]]
    more = make_cursor("home", (found[_SAES - 1].id,)) if len(found) > _SAES else None
    return render(request, "home.html.j2", saes=saes, next_cursor=more, jobs=running_jobs(store), first=cursor is None)


@router.get("/home/jobs")
def jobs_now(request: Request, store: StoreOf, _: Viewer) -> Response:
    """Show the running jobs, the part of the page that reloads itself."""
    return render(request, "home_jobs.html.j2", jobs=running_jobs(store))


def _line(store: Store, info: SaeInfo) -> SaeLine:
    ids = catalogue.sets_of(store, info.id)
    newest = [catalogue.find_set(store, i) for i in ids[: -_SETS - 1 : -1]]
    return SaeLine(info, tuple(SetLine(s, store.summary(s.id)) for s in newest), len(ids))


def running_jobs(store: Store) -> list[tuple[JobInfo, JobProgress]]:
    """Jobs that are under way, those that run first."""
    jobs = Jobs(store)
    states = (JobState.RUNNING, JobState.QUEUED, JobState.PAUSED)
    return [(job, progress_of(store, job.id)) for state in states for job in jobs.page(None, _JOBS, state)]
