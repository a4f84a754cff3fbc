"""Messages to the workers that there is work, by task name, so that nothing heavy is imported here.

The queue is kept short. It never holds more than `DEPTH` messages, however many blocks wait in the database.
"""

from __future__ import annotations

import logging

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from labeler.store import Store
from labeler.store.jobs.activations import Activations
from labeler.store.jobs.blocks import Blocks
from labeler.terms import JobKind
from workers.app import ACTIVATIONS_QUEUE, GATHER_QUEUE, LABEL_QUEUE, app

DEPTH = 32
QUEUES = {JobKind.LABEL: LABEL_QUEUE, JobKind.GATHER: GATHER_QUEUE}
TASKS = {JobKind.LABEL: "workers.label_block", JobKind.GATHER: "workers.gather_block"}

log = logging.getLogger(__name__)


def refill(kind: JobKind, store: Store) -> None:
    """Fill the queue up to one message for each waiting block, at most `DEPTH`.

    A broker that cannot be reached raises no error here: the workers look for work themselves (recovery.py).
    """
    _top_up(QUEUES[kind], TASKS[kind], Blocks(store).waiting(kind, DEPTH))


def announce_texts(store: Store) -> int:
    """Send one message for all texts that wait for activations, and return the number of messages sent."""
    return _top_up(ACTIVATIONS_QUEUE, "workers.activations", min(1, Activations(store).n_waiting()))


def _top_up(queue: str, task: str, wanted: int) -> int:
    if wanted == 0:
        return 0
    try:
        n = max(0, wanted - _n_messages(queue))
        with app.producer_pool.acquire(block=True, timeout=5) as producer:
            for _ in range(n):
                app.signature(task).apply_async(producer=producer, retry=False)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("the queue cannot be reached (%s); the workers will find the work by themselves", error)
        return 0
    return n


def n_queued(kind: JobKind) -> int:
    """Count the messages that no worker has taken yet."""
    return _n_messages(QUEUES[kind])


def _n_messages(queue: str) -> int:
    with app.pool.acquire(block=True, timeout=5) as connection:
        return int(connection.default_channel.client.llen(queue))
