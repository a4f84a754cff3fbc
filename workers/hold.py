"""The lease on a block. A thread reports every so often that this process lives, and learns when it must stop."""

from __future__ import annotations

import logging
import mmap
import struct
import threading
import time
from types import TracebackType

from labeler.errors import LabelerError
from labeler.store.jobs.blocks import Blocks
from labeler.store.jobs.states import HolderOrder, Lease

_EVERY = 2.0  # seconds at most between two signs of life
GRACE = 8.0  # seconds for the features in hand to end, once the block must be given back
_LOOK = 0.2  # seconds between two checks whether the worker shuts down

log = logging.getLogger(__name__)

# A worker shares with its forked processes when it was told to shut down, by the monotonic clock; 0.0 before.
_told_at = struct.Struct("d")
_shared = mmap.mmap(-1, _told_at.size)


def shut_down() -> None:
    _told_at.pack_into(_shared, 0, time.monotonic())


def start_up() -> None:
    _told_at.pack_into(_shared, 0, 0.0)


def seconds_of_shutdown() -> float:
    """Return the seconds since this worker was told to shut down; 0.0 before."""
    (told_at,) = _told_at.unpack_from(_shared, 0)
    return time.monotonic() - told_at if told_at else 0.0


class Stopped(Exception):  # noqa: N818 - not an error
    """The worker must give the block back."""


class LeaseKeeper:
    """Keeps a block leased. In `with LeaseKeeper(blocks, lease) as holding`, the block is ours while `holding.go_on()`."""

    def __init__(self, blocks: Blocks, lease: Lease, lease_seconds: float) -> None:
        self._blocks, self._lease = blocks, lease
        self._every = min(_EVERY, lease_seconds / 4)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"hold-{lease.block_id}", daemon=True)
        self._has_progressed = False
        self.order = HolderOrder.GO_ON
        self.stopped_at: float | None = None  # monotonic

    def go_on(self) -> bool:
        if seconds_of_shutdown() and self.order is HolderOrder.GO_ON:
            self._stop(HolderOrder.STOP)
        return self.order is HolderOrder.GO_ON

    def progressed(self) -> None:
        """Record that the block now holds work that the next attempt need not do again."""
        self._has_progressed = True

    @property
    def seconds_stopped(self) -> float:
        """Return the seconds since this process was told to stop."""
        self.go_on()
        return 0.0 if self.stopped_at is None else time.monotonic() - self.stopped_at

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        next_beat = time.monotonic() + self._every
        while not self._ended.wait(_LOOK if self._every > _LOOK else self._every):
            self.go_on()
            if time.monotonic() < next_beat:
                continue
            next_beat = time.monotonic() + self._every
            try:
                has_progressed, self._has_progressed = self._has_progressed, False
                order = self._blocks.renew(self._lease, has_progressed=has_progressed)
            except LabelerError as error:
                log.warning("block %d: %s", self._lease.block_id, error)  # the next report may succeed
            else:
                if order is not HolderOrder.GO_ON:
                    self._stop(order)

    def _stop(self, order: HolderOrder) -> None:
        if self.order is not HolderOrder.LOST:
            self.order = order
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
