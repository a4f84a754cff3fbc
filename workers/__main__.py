"""`python -m workers label|gather`: one Celery worker, as `labeler worker` and the containers start it."""

from __future__ import annotations

import argparse
import logging
import os
import socket

# Before torch loads: spinning OpenMP threads starve whatever else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument("queue", choices=["label", "gather"])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of a label worker")
    parser.add_argument("--log-level", default="info")
    chosen = parser.parse_args()
    # CUDA does not survive a fork: a gather worker does its work in its main process.
    pool = ["--pool=solo"] if chosen.queue == "gather" else ["--pool=prefork", f"--concurrency={chosen.processes}"]
    name = f"{chosen.queue}-{os.getpid()}@{socket.gethostname()}"

    for talkative in ("alembic", "httpx", "httpx2"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    from workers.app import app

    app.worker_main(
        ["worker", f"--queues={chosen.queue}", *pool, f"--hostname={name}", f"--loglevel={chosen.log_level}",
         "--without-mingle", "--without-gossip"]
    )  # fmt: skip


main()
