"""A run's lease on its features. A thread reports that the run lives, and frees the features of dead runs."""

from __future__ import annotations

import logging
import threading
import time

from labeler.errors import LabelerError, StorageError, TakenOverError
from labeler.store.jobs.claims import Claimed, Claims, RunBeat, Work
from labeler.store.jobs.watch import Watch, take_back_runs

LEASE_SECONDS = 30.0
_BEAT_SECONDS = 2.0  # at most, between two signs of life

log = logging.getLogger(__name__)


class RunLease:
    """A run's lease: `begin`, then any number of `claim` and `release`, then `end`. Each method is one database call."""

    def __init__(self, claims: Claims, work: Work, seconds: float, block_id: int | None = None) -> None:
        self._claims, self._work = claims, work
        self._seconds, self._block_id = seconds, block_id
        self._id = ""
        self._sure_until = 0.0
        self._ended = threading.Event()
        self._watch = Watch[RunBeat](seconds)

    def begin(self) -> None:
        began = awake_seconds()
        self._claims.take_back_from_the_dead()
        self._id = self._claims.begin(self._block_id)
        self._is_confirmed(began)
        threading.Thread(target=self._keep_alive, name=f"run-{self._id}", daemon=True).start()

    @property
    def is_sure(self) -> bool:
        """Return True if no other process can have taken the features of this run.

        That is certain until half the lease has passed since the last report.
        """
        return awake_seconds() < self._sure_until

    def confirm(self) -> None:
        """Report that the run lives. Raises TakenOverError where others have taken its features."""
        began = awake_seconds()
        if not self._claims.renew(self._id):
            raise TakenOverError(
                "other processes have taken over the features of this run, since it gave no sign of life"
            )
        self._is_confirmed(began)

    def claim(self, features: list[int]) -> Claimed:
        """Claim features as `Claims.claim` does."""
        return self._claims.claim(self._id, self._work, features)

    def release(self, features: list[int]) -> None:
        self._claims.release(self._id, self._work, features)

    def other_holders(self) -> tuple[str, ...]:
        """Describe the other runs that label features of this label set."""
        return tuple(sorted(self._claims.holders(self._work, self._id)))

    def end(self) -> None:
        self._ended.set()
        try:
            self._claims.end(self._id)
        except StorageError as error:
            log.warning("%s; other runs take the features of this run once it is silent", error)

    def _is_confirmed(self, began: float) -> None:
        self._sure_until = began + self._seconds / 2

    def _keep_alive(self) -> None:
        while not self._ended.wait(min(_BEAT_SECONDS, self._seconds / 4)):
            try:
                self.confirm()
                take_back_runs(self._claims, self._watch, time.monotonic())
            except TakenOverError:
                return  # the next request raises this error
            except LabelerError as error:
                log.warning("%s", error)  # the next report may succeed


def awake_seconds() -> float:
    """Return a monotonic time that includes the machine's sleep, where the system has one: other machines stay awake."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
