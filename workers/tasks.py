"""The tasks of Celery: claim the block whose turn it is, do it, record it, announce more work."""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery.exceptions import SoftTimeLimitExceeded

from labeler.errors import ConfigurationError, ConflictError, InputError, StorageError, reason_of
from labeler.logs import logged_as
from labeler.store.jobs.states import HolderOrder, Lease
from labeler.terms import JobKind
from workers import enqueue
from workers.activate import answer_all
from workers.app import LABEL_SECONDS, app
from workers.gather import gather
from workers.hold import LeaseKeeper, Stopped
from workers.label import label
from workers.resources import Resources, here

log = logging.getLogger(__name__)

Work = Callable[[Lease, LeaseKeeper, Resources], None]


@app.task(name="workers.label_block", soft_time_limit=LABEL_SECONDS - 60, time_limit=LABEL_SECONDS)
def label_block() -> None:
    """Label the features of one block that have no result yet."""
    _work_on_next(JobKind.LABEL, label)


# No time limit: the pool of a gather worker works in its main process, and enforces none.
@app.task(name="workers.gather_block")
def gather_block() -> None:
    """Do one step of a gathering pass."""
    _work_on_next(JobKind.GATHER, gather)


@app.task(name="workers.activations")
def activations() -> None:
    """Answer the texts that people ask about."""
    answer_all(here())


def _work_on_next(kind: JobKind, work: Work) -> None:
    resources = here()
    lease = resources.blocks.claim(kind, resources.name)
    if lease is None:
        return
    with logged_as(job=lease.job_id, block=lease.number, attempt=lease.attempt):
        log.info("begun")
        with LeaseKeeper(resources.blocks, lease, resources.settings.lease_seconds) as holding:
            try:
                _do(lease, work, holding, resources)
            except StorageError as error:
                log.warning("%s; another worker takes the block over once its lease has expired", error)
                return
    enqueue.refill(kind, resources.store)


def _do(lease: Lease, work: Work, holding: LeaseKeeper, resources: Resources) -> None:
    """Do the block and record its end: done, given back, or lost with a reason."""
    blocks, jobs = resources.blocks, resources.jobs
    try:
        work(lease, holding, resources)
    except (ConfigurationError, InputError) as error:
        # An error that fails one feature this way fails them all: the job waits for a person, or its request cannot be
        # fulfilled.
        log.warning("%s", error)
        blocks.give_back(lease)
        try:
            # The job's reason is read on other machines: the local path of the folder means nothing there.
            (jobs.pause if isinstance(error, ConfigurationError) else jobs.fail)(lease.job_id, reason_of(error))
        except ConflictError:
            log.info("the job had stopped already")
        # A person who resumes the job has fixed the cause, and need not wait until our circuit breaker tries again.
        resources.hang_up()
    except (Stopped, StorageError) as error:
        log.info("given back (%s)", error or "told to")
        blocks.give_back(lease)
    except SoftTimeLimitExceeded:
        blocks.lose(lease, "took longer than a block may take")
    except Exception as error:
        log.exception("broke down")
        blocks.lose(lease, f"{type(error).__name__}: {error}"[:500])
    else:
        if holding.order is HolderOrder.GO_ON:
            blocks.finish(lease)
        else:
            blocks.give_back(lease)
