"""Figures for Prometheus. Requests are counted as they come.

Features, jobs, queues and the counts of workers are read from the database when Prometheus asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from labeler.store import BLOCKS, JOBS, Store
from labeler.store.base.columns import count_states
from labeler.store.base.counters import LLM_SECONDS, Labels, count_by_state, read_counters, sum_of_blocks
from labeler.store.base.database import Snapshot
from labeler.store.jobs.blocks import LEASE_EXPIRED

_FRESH_SECONDS = 15.0  # a million features take a tenth of a second to count while all of them are new


class Metrics:
    def __init__(self, store: Store, queue_depths: Callable[[], dict[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "labeler_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "labeler_http_request_seconds",
            "Time to answer.",
            ("route",),
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
        )
        self.registry.register(_Stored(store, queue_depths))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Stored(Collector):
    def __init__(self, store: Store, queue_depths: Callable[[], dict[str, int]]) -> None:
        self._store, self._queue_depths = store, queue_depths
        self._known: tuple[float, list[Metric]] = (float("-inf"), [])

    def describe(self) -> list[Metric]:
        return []  # so that registering asks nothing of the database

    def collect(self) -> Iterator[Metric]:
        if time.monotonic() - self._known[0] > _FRESH_SECONDS:
            with self._store.database.reading() as connection:
                found = [*_counted(connection), _used(connection), *_added_up(read_counters(connection))]
            depths = self._queue_depths()
            found.append(_by_name("queue_depth", "Messages that no worker has taken.", "queue", depths))
            self._known = (time.monotonic(), found)
        yield from self._known[1]


def _counted(connection: Snapshot) -> Iterator[Metric]:
    yield _by_name("features", "Features that have a result, by state.", "state", count_states(connection))
    for name, help_text, table in (
        ("jobs", "Jobs by state.", JOBS),
        ("blocks", "Blocks of jobs by state.", BLOCKS),
    ):
        yield _by_name(name, help_text, "state", count_by_state(connection, table))


def _used(connection: Snapshot) -> Metric:
    sums = sum_of_blocks(connection, ("requests", "tokens_in", "tokens_out", "cost_usd", "attempts"))
    return _by_name("work", "What is kept of jobs has cost, and blocks begun.", "what", sums)


def _added_up(counters: dict[str, dict[Labels, float]]) -> Iterator[Metric]:
    """Yield the sums of the workers' counts."""
    for name, help_text, labels in (
        ("llm_requests", "Requests to LLMs, answered or not.", ("model",)),
        ("llm_failures", "Requests to LLMs without a reply, by kind of failure.", ("model", "kind")),
        ("llm_tokens", "Tokens of the replies that came.", ("model", "direction")),
        ("llm_cost_usd", "Price of the replies that came, where it is known.", ("model",)),
        ("llm_unpriced", "Replies whose price is unknown.", ("model",)),
        ("blocks_lost", "Blocks whose attempt was lost: how, and what became of them.", ("how", "now")),
    ):
        family = CounterMetricFamily(f"labeler_{name}", help_text, labels=labels)
        for values, total in sorted(counters.get(name, {}).items()):
            family.add_metric(values, total)
        yield family
    yield _lease_expiries(counters.get("blocks_lost", {}))
    yield _llm_seconds(counters)


def _lease_expiries(lost: dict[Labels, float]) -> Metric:
    n_expired = sum(n for (how, _), n in lost.items() if how == LEASE_EXPIRED)
    return CounterMetricFamily(
        "labeler_lease_expiries", "Blocks taken back from a worker that gave no sign of life.", n_expired
    )


def _llm_seconds(counters: dict[str, dict[Labels, float]]) -> Metric:
    family = HistogramMetricFamily("labeler_llm_seconds", "Time to an LLM's reply.", labels=("model",))
    in_bucket, edges = counters.get("llm_seconds_bucket", {}), [*map(str, LLM_SECONDS), "+Inf"]
    for (model,), total in sorted(counters.get("llm_seconds_sum", {}).items()):
        up_to = accumulate(in_bucket.get((model, str(place)), 0.0) for place in range(len(edges)))
        family.add_metric((model,), list(zip(edges, up_to, strict=True)), total)
    return family


def _by_name(name: str, help_text: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"labeler_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
