"""The part of a label set that this run labels, while others may work on the same one.

missing ──claim──► ours ──saved──► released
   └─ in other hands: looked at again until it is done, or free
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from labeler.errors import StorageError, TakenOverError
from labeler.label_sets.label_sets import AnyLabelSet
from labeler.label_sets.lease import LEASE_SECONDS, RunLease
from labeler.store import Store
from labeler.store.jobs.claims import Claims

_LOOK_SECONDS = 0.5  # between two looks at features that other runs hold
_AT_ONCE = 16  # features claimed at a time: few enough to leave some for others

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hands:
    """Features that other runs hold, for a person who waits for them."""

    n_features: int
    holders: tuple[str, ...]  # such as "process 4711"


@dataclass(frozen=True)
class Sharing:
    """The settings by which a run shares a label set with others."""

    lease_seconds: float = LEASE_SECONDS  # without a sign of life, until others take its features
    block_id: int | None = None  # the block of a job that the run is for
    longest_wait: float = float("inf")  # seconds for features of other runs, which are then left to them
    # called as the wait begins, and at each change
    on_wait: Callable[[Hands], None] = field(default=lambda hands: None)
    # called with the number of features just found done
    on_done_by_others: Callable[[int], None] = field(default=lambda n: None)


class Share:
    """The claimed features of a run: `async with Share(...) as share: ... await share.take(n)`, until none is left."""

    def __init__(
        self,
        store: Store,
        label_set: AnyLabelSet,
        missing: Sequence[int],
        sharing: Sharing,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self._sharing, self._go_on = sharing, go_on
        self._lease = RunLease(Claims(store), label_set.work, sharing.lease_seconds, sharing.block_id)
        self._unseen, self._ours = deque(missing), deque[int]()
        self._held: list[int] = []
        self.n_taken = 0
        self.n_by_others = 0  # features that other runs have labeled meanwhile
        # saves features that others may be waiting for in turn
        self.before_wait: Callable[[], Awaitable[None]] | None = None

    @property
    def n_left(self) -> int:
        """Count the features that are not done and were never claimed by this run."""
        return len(self._unseen) + len(self._ours) + len(self._held)

    async def __aenter__(self) -> Share:
        await asyncio.to_thread(self._lease.begin)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._lease.end)

    async def one_by_one(self) -> AsyncIterator[int]:
        while taken := await self.take(1):
            yield taken[0]

    async def take(self, most: int) -> list[int]:
        """Take up to `most` features to label now; wait while other runs hold all that is left. Empty at the end.

        Raises TakenOverError where other runs have taken the features of this one.
        """
        began, shown = time.monotonic(), None
        while self._go_on():
            if not self._ours and self._unseen:
                await self._claim([self._unseen.popleft() for _ in range(min(_AT_ONCE, len(self._unseen)))])
            if self._ours:
                return self._given(min(most, len(self._ours)))
            if not self._unseen:
                if not self._held or time.monotonic() - began > self._sharing.longest_wait:
                    return []
                shown = await self.wait(shown)
        return []

    async def take_all(self) -> list[int]:
        """Take every missing feature that no other run holds, at once."""
        wanted, self._held = [*self._unseen, *self._held], []
        self._unseen.clear()
        await self._claim(wanted)
        return self._given(len(self._ours))

    async def wait(self, shown: Hands | None = None) -> Hands:
        """Wait a moment for features that other runs hold, claim those that have become free, and return the holders.

        `on_wait` hears of the holders unless they are those in `shown`.
        """
        if self.before_wait is not None:
            await self.before_wait()
        hands = Hands(len(self._held), await asyncio.to_thread(self._lease.other_holders))
        if hands != shown:
            self._sharing.on_wait(hands)
        await asyncio.sleep(_LOOK_SECONDS)
        held, self._held = self._held, []
        await self._claim(held)
        return hands

    async def release(self, features: Sequence[int]) -> None:
        """Release these features, whose results are saved."""
        await asyncio.to_thread(self._lease.release, list(features))

    async def check(self) -> None:
        """Return before a request only while the features are surely ours; raises TakenOverError where they are not.

        While the database cannot tell, this waits: a reply could not be saved either. A process that slept through its
        lease learns here that others have continued the work.
        """
        while not self._lease.is_sure:
            try:
                await asyncio.to_thread(self._lease.confirm)
            except TakenOverError:
                raise
            except StorageError as error:
                log.warning("%s", error)
                await asyncio.sleep(_LOOK_SECONDS)

    def _given(self, n: int) -> list[int]:
        self.n_taken += n
        return [self._ours.popleft() for _ in range(n)]

    async def _claim(self, features: list[int]) -> None:
        claimed = await asyncio.to_thread(self._lease.claim, features)
        self._ours += claimed.ours
        self._held += claimed.held
        self.n_by_others += len(claimed.done)
        if claimed.done:
            self._sharing.on_done_by_others(len(claimed.done))
