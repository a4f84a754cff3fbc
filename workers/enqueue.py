"""Telling the workers that there is work: messages by task name, so that nothing heavy is imported here.

The queue is kept short. It never holds more than `DEPTH` messages, however many blocks wait in the database.
"""

from __future__ import annotations

import logging

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from labeler.store import Store
from labeler.store.blocks import Blocks
from labeler.store.states import JobKind
from workers.app import GATHER_QUEUE, LABEL_QUEUE, app

DEPTH = 32
QUEUES = {JobKind.LABEL: LABEL_QUEUE, JobKind.GATHER: GATHER_QUEUE}
TASKS = {JobKind.LABEL: "workers.label_block", JobKind.GATHER: "workers.gather_block"}

log = logging.getLogger(__name__)


def refill(kind: JobKind, store: Store) -> int:
    """Bring the queue up to one message for each block that waits, at most `DEPTH`; how many were sent.

    A broker that cannot be reached is no error of the caller's: the workers look for themselves (recovery.py).
    """
    waiting = Blocks(store).waiting(kind, DEPTH)
    if waiting == 0:
        return 0
    try:
        n = max(0, waiting - n_queued(kind))
        with app.producer_pool.acquire(block=True, timeout=5) as producer:
            for _ in range(n):
                app.signature(TASKS[kind]).apply_async(producer=producer, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("the queue cannot be reached (%s); the workers will find the work by themselves", error)
        return 0
    return n


def n_queued(kind: JobKind) -> int:
    """Messages that no worker has taken yet."""
    with app.pool.acquire(block=True, timeout=5) as connection:
        return int(connection.default_channel.client.llen(QUEUES[kind]))
