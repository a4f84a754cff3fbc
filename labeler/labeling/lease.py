"""A run that holds features: a thread says every so often that it lives, and frees what dead runs have left behind."""

from __future__ import annotations

import logging
import threading
import time

from labeler.errors import LabelerError, StorageError, TakenOverError
from labeler.store.claims import Claimed, Claims, RunBeat, Work
from labeler.store.watch import Watch, take_back_runs

LEASE_SECONDS = 30.0
_BEAT_SECONDS = 2.0  # at most, between two signs of life

log = logging.getLogger(__name__)


class RunLease:
    """`begin`, then `claim` and `release` at will, then `end`. Every method is one look into the database."""

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
        """Whether nobody can have taken us for dead: half the time that it takes has not passed since we said that we live."""
        return awake_seconds() < self._sure_until

    def confirm(self) -> None:
        """Say that we live. Raises TakenOverError where others went by that we do not."""
        began = awake_seconds()
        if not self._claims.renew(self._id):
            raise TakenOverError("others have taken over what this run had in hand, since it gave no sign of life")
        self._is_confirmed(began)

    def claim(self, features: list[int]) -> Claimed:
        """As `Claims.claim`."""
        return self._claims.claim(self._id, self._work, features)

    def release(self, features: list[int]) -> None:
        self._claims.release(self._id, self._work, features)

    def other_holders(self) -> tuple[str, ...]:
        """Who else has features of this label set in hand, in words."""
        return tuple(sorted(self._claims.holders(self._work, self._id)))

    def end(self) -> None:
        self._ended.set()
        try:
            self._claims.end(self._id)
        except StorageError as error:
            log.warning("%s; others take what this run had in hand once it is silent", error)

    def _is_confirmed(self, began: float) -> None:
        self._sure_until = began + self._seconds / 2

    def _keep_alive(self) -> None:
        while not self._ended.wait(min(_BEAT_SECONDS, self._seconds / 4)):
            try:
                self.confirm()
                take_back_runs(self._claims, self._watch, time.monotonic())
            except TakenOverError:
                return  # whoever is about to send a request is told so
            except LabelerError as error:
                log.warning("%s", error)  # the next sign may come through


def awake_seconds() -> float:
    """A monotonic clock that goes on while the machine sleeps, where the system has one: others do not sleep with it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
