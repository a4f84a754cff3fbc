"""One Celery worker: `python -m workers label|gather|activations`, as `labeler worker` and the containers start it."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import socket

# Set before torch loads: spinning OpenMP threads starve all other processes on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument("queue", choices=["label", "gather", "activations"])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of a label worker")
    parser.add_argument("--log-level", default="info")
    chosen = parser.parse_args()
    # CUDA does not survive a fork: a gather worker does its work in its main process.
    pool = ["--pool=prefork", f"--concurrency={chosen.processes}"] if chosen.queue == "label" else ["--pool=solo"]
    # A person waits for activations, so they come before the next step of a pass.
    queues = "activations,gather" if chosen.queue == "gather" else chosen.queue
    name = f"{chosen.queue}-{os.getpid()}@{socket.gethostname()}"

    for talkative in ("alembic", "httpx", "httpx2"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    from workers.app import app

    if chosen.queue == "label":
        # Import before the fork: each process would take half a second for it, and memory of its own.
        importlib.import_module("labeler.llm.client")
    app.worker_main(
        [
            "worker",
            f"--queues={queues}",
            *pool,
            f"--hostname={name}",
            f"--loglevel={chosen.log_level}",
            "--without-mingle",
            "--without-gossip",
        ]
    )


main()
