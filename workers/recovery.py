"""Recovery, which every worker runs beside its work: take back lost blocks and features, and keep the queue filled.

It runs in each worker's main process, so that there is no scheduler to run or to lose. Any number of workers may run it
at once.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from labeler.errors import LabelerError
from labeler.evidence.store import EvidenceFolder
from labeler.records import LabeledFeature, State
from labeler.store import Store
from labeler.store.jobs.activations import Activations
from labeler.store.jobs.blocks import Blocks
from labeler.store.jobs.claims import Claims, RunBeat
from labeler.store.jobs.states import Heartbeat, Lease
from labeler.store.jobs.watch import Watch, take_back_runs
from labeler.terms import JobKind
from workers import enqueue

log = logging.getLogger(__name__)


def tick(store: Store, watch: Watch[Heartbeat], runs: Watch[RunBeat], now: float) -> None:
    """Do one round of recovery. Raises StorageError while the database cannot be reached."""
    blocks = Blocks(store)
    take_back_runs(Claims(store), runs, now)
    for beat in watch.silent(blocks.beats(), now):
        state = blocks.take_back(beat, "its worker was lost")
        log.warning("block %d: no sign of life, now %s", beat.block_id, state or "alive again")
    for lease, reason in blocks.to_set_aside():
        set_aside(store, lease, reason)
    for kind in JobKind:
        blocks.make_room(kind)
        enqueue.refill(kind, store)
    enqueue.announce_texts(store)
    Activations(store).forget_old()


def set_aside(store: Store, lease: Lease, reason: str) -> None:
    """Mark the features that a failed block left undone as `failed`, each with the reason."""
    log.error("job %d block %d is set aside: %s", lease.job_id, lease.number, reason)
    Blocks(store).set_aside(lease, _undone(store, lease, f"lost: {reason}, three times without progress"))


def _undone(store: Store, lease: Lease, reason: str) -> Sequence[LabeledFeature]:
    if lease.kind is not JobKind.LABEL or lease.label_set_id is None:
        return ()
    try:
        folder = EvidenceFolder(Path(store.label_set(lease.label_set_id).evidence_path))
        # Features that failed before keep their reason and their cost.
        done = store.finished(lease.label_set_id, lease.first, lease.last + 1, retry_failed=False)
        return [
            LabeledFeature(f, State.FAILED, folder.statistics_or_unknown(f), reason)
            for f in lease.features
            if f not in done
        ]
    except LabelerError as error:
        # The evidence itself may be the cause: then the block's own reason holds.
        log.warning("job %d block %d: %s", lease.job_id, lease.number, error)
        return ()


class Recovery:
    """Runs `tick` now and then beside the work of a worker.

    A worker that forks calls `tick` from the timer of its main loop, between two forks. A thread in the middle of a
    query would leave its locks, with no holder, in each process that is forked meanwhile. A worker that works in its
    main process never forks and is busy for hours, so it calls `tick` from a thread.
    """

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self._watch, self._runs = Watch[Heartbeat](lease_seconds), Watch[RunBeat](lease_seconds)
        # Workers take their rounds at different moments.
        self.every = min(2.0, lease_seconds / 4) * random.uniform(0.75, 1.25)

    def tick(self) -> None:
        try:
            tick(self._store, self._watch, self._runs, time.monotonic())
        except LabelerError as error:
            log.warning("recovery: %s", error)
        except Exception:
            log.exception("recovery goes on after an unexpected error")

    def start_thread(self) -> None:
        threading.Thread(target=self._run, name="recovery", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(self.every)
            self.tick()
