"""What our client costs beside the request itself: CPU a request, and its rate beside a bare `AsyncOpenAI` loop.

    python benchmarks/llm_client.py [--requests 500] [--concurrency 64] [--json]

Both send the same requests to a stub with 50 ms latency in a process of its own, in turns. Ours looks in the ledger (a
SQLite file) before each request and keeps the reply there, durably, before anything reads it; the bare loop forgets it.
The bare loop has the fastest transport that the openai library offers (aiohttp), which is also ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import openai
from late_llm import LATENCY, late_llm

from labeler.llm.client import OpenAILLM
from labeler.llm.prompt import Message, Prompt
from labeler.store import open_store
from labeler.store.base.ledger import SqlLedger

TURNS = 9
TARGET_CPU_MS, TARGET_SHARE = 4.0, 0.85


def prompts(n: int, turn: int) -> list[Prompt]:
    """Different texts of 2,800 characters, about as long as a simulation of ten contexts."""
    words = "the quick brown fox jumps over the lazy dog and reads the label of a feature again " * 34
    return [
        Prompt("stub", (Message("user", f"{turn} {i} {words}"[:2800]),), 500, 0.0, purpose="simulate") for i in range(n)
    ]


async def bare(base_url: str, asked: Sequence[Prompt], concurrency: int) -> None:
    slots = asyncio.Semaphore(concurrency)
    async with openai.AsyncOpenAI(
        base_url=base_url, api_key="none-needed", max_retries=0, http_client=openai.DefaultAioHttpClient()
    ) as client:

        async def ask(prompt: Prompt) -> str | None:
            async with slots:
                completion = await client.chat.completions.create(
                    model=prompt.model,
                    max_tokens=prompt.max_tokens,
                    temperature=prompt.temperature,
                    messages=[{"role": "user", "content": prompt.messages[0].content}],
                )
                return completion.choices[0].message.content

        await asyncio.gather(*map(ask, asked))


async def ours(base_url: str, asked: Sequence[Prompt], concurrency: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(str(Path(folder) / "ledger.db"))
        async with OpenAILLM(base_url, ledger=SqlLedger(store), concurrency=concurrency) as llm:
            await asyncio.gather(*map(llm.complete, asked))
        store.close()


def measured(work: Callable[[], Awaitable[None]], n: int) -> tuple[float, float]:
    """CPU milliseconds a request, and requests a second."""

    async def run() -> tuple[float, float]:
        cpu, began = time.process_time(), time.perf_counter()
        await work()
        return (time.process_time() - cpu) / n * 1000, n / (time.perf_counter() - began)

    return asyncio.run(run())


def compare(base_url: str, n: int, concurrency: int) -> dict[str, float]:
    # The first use of a client compiles and imports on the way.
    for work in (bare, ours):
        measured(lambda work=work: work(base_url, prompts(64, -1), concurrency), 64)  # type: ignore[misc]
    figures: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    for turn in range(TURNS):
        asked = prompts(n, turn)
        figures["bare"].append(measured(lambda: bare(base_url, asked, concurrency), n))  # noqa: B023 - used at once
        figures["ours"].append(measured(lambda: ours(base_url, asked, concurrency), n))  # noqa: B023
    median = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()}
    # Turn by turn: what else runs on this machine is then in both.
    shares = [ours[1] / bare[1] for ours, bare in zip(figures["ours"], figures["bare"], strict=True)]
    return {
        "requests": n,
        "concurrency": concurrency,
        "cpu_ms": median["ours"][0],
        "cpu_ms_bare": median["bare"][0],
        "rate": median["ours"][1],
        "rate_bare": median["bare"][1],
        "share_of_bare": statistics.median(shares),
        "share_lowest": min(shares),
        "share_highest": max(shares),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with late_llm() as base_url:
        result = compare(base_url, options.requests, options.concurrency)
    print(
        f"{options.requests:,} requests, {options.concurrency} in flight, {LATENCY * 1000:.0f} ms each, median of {TURNS} turns\n"
        f"ours  {result['cpu_ms']:.2f} ms CPU a request  {result['rate']:,.0f}/s\n"
        f"bare  {result['cpu_ms_bare']:.2f} ms CPU a request  {result['rate_bare']:,.0f}/s\n"
        f"ours reaches {result['share_of_bare']:.0%} of the bare rate "
        f"({result['share_lowest']:.0%} to {result['share_highest']:.0%}; targets: at most {TARGET_CPU_MS:g} ms, at least {TARGET_SHARE:.0%})"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
