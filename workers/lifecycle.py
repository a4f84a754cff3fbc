"""The start and stop of a worker, through Celery's signals and steps."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

from celery import bootsteps, signals
from celery.concurrency import solo
from kombu.transport import redis as queue
from kombu.transport import virtual
from redis.exceptions import OutOfMemoryError

from labeler.logs import log_as_json
from labeler.settings import Settings
from labeler.store import open_store
from workers.app import app
from workers.hold import seconds_of_shutdown, shut_down, start_up
from workers.recovery import Recovery
from workers.resources import close_here, here, n_unkept_here

# Seconds from SIGTERM: for the features in hand, then for the replies in flight, then for the last messages. A service
# manager waits longer: 30 s in `labeler up`, 60 s in docker-compose.yml.
_CHILD_SECONDS, _MAIN_SECONDS = 20.0, 25.0
_CUT_SHORT = 75  # the exit code, EX_TEMPFAIL

log = logging.getLogger(__name__)


@signals.setup_logging.connect
def set_up_logging(loglevel: int, **_: Any) -> None:
    log_as_json(loglevel)


class RecoveryStep(bootsteps.StartStopStep):
    """Starts the recovery with the consumer, and again with each new connection to the queue, which clears its timers."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        start_up()
        if isinstance(parent.pool, solo.TaskPool):
            if not hasattr(self, "_recovery"):
                self._recovery = _new_recovery()
                self._recovery.start_thread()
            return
        recovery = _new_recovery()
        parent.timer.call_repeatedly(recovery.every, recovery.tick)


def _new_recovery() -> Recovery:
    settings = Settings.from_environment()
    here()  # migrates the tables before any process that needs them is forked
    return Recovery(open_store(settings.database, migrate=False), settings.lease_seconds)


class PatientQoS(queue.QoS):
    """Treats a Redis out of memory as harmless.

    Such a Redis refuses to remove a message that was handled, which must not keep counting as in hand. Redis delivers
    it again after the visibility timeout, which does no harm.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except OutOfMemoryError:
            virtual.QoS.ack(self, delivery_tag)


@signals.worker_init.connect
def begin(**_: Any) -> None:
    """Treat a Redis out of memory like one that is out of reach.

    Otherwise the worker would end with its requests in flight.
    """
    queue.Channel.QoS = PatientQoS
    if OutOfMemoryError not in queue.Transport.connection_errors:
        queue.Transport.connection_errors += (OutOfMemoryError,)


@signals.worker_shutting_down.connect
def shutting_down(sender: str, **_: Any) -> None:
    """Give back the blocks in hand within seconds of a SIGTERM; Celery waits for that."""
    shut_down()
    if sender.startswith("label-"):  # the checkpoint of a gather worker may take longer
        end_for_certain(_MAIN_SECONDS)


@signals.worker_shutdown.connect
def end(**_: Any) -> None:
    close_here()


@signals.worker_process_init.connect
def child_begins(**_: Any) -> None:
    die_with_parent()
    end_for_certain(_CHILD_SECONDS)


@signals.worker_process_shutdown.connect
def child_ends(**_: Any) -> None:
    close_here()


def end_for_certain(seconds: float) -> None:
    """End this process this long after it was told to shut down, even while a database hangs."""

    def watch() -> None:
        while seconds_of_shutdown() < seconds:
            time.sleep(0.2)
        n_lost = n_unkept_here()
        log.error("stopped before its work had ended, since the time was up: %s", _lost(n_lost))
        logging.shutdown()
        os._exit(_CUT_SHORT)

    threading.Thread(target=watch, name="end", daemon=True).start()


def _lost(n: int) -> str:
    return f"{n} replies that had arrived are lost, and will be asked for again" if n else "no reply is lost"


app.steps["consumer"].add(RecoveryStep)


def die_with_parent(sign: int = signal.SIGKILL) -> None:
    """On Linux, let the kernel end this process with its parent: `kill -9` of a worker leaves no child behind."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, sign)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent died in between
            os.kill(os.getpid(), sign)
