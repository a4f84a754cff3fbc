"""Detection of dead processes: only silence counts, whatever any wall clock says."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from labeler.store.jobs.claims import Claims, RunBeat

B = TypeVar("B", bound=Hashable)

log = logging.getLogger(__name__)


class Watch(Generic[B]):
    """Finds the signs of life that have stood still for `seconds`, by this process's own monotonic clock.

    No wall clock matters, neither this machine's nor the database's: one that jumps causes no wrong decision.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[B, float] = {}

    def silent(self, beats: Iterable[B], now: float) -> list[B]:
        self._since = {beat: self._since.get(beat, now) for beat in beats}
        return [beat for beat, since in self._since.items() if now - since >= self._seconds]


def take_back_runs(claims: Claims, watch: Watch[RunBeat], now: float) -> None:
    """Free the features of runs that are silent, or whose processes have ended on this machine."""
    if n_dead := claims.take_back_from_the_dead():
        log.info("%d runs have ended without releasing their features; these are free again", n_dead)
    for beat in watch.silent(claims.beats(), now):
        if claims.take_back(beat):
            log.warning("run %s: no sign of life; its features are free again", beat.run)
