"""Figures for Prometheus: requests as they come; features, jobs and queues as the database has them when it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from labeler.store import BLOCKS, JOBS, Store
from labeler.store.tables import RESULTS

_FRESH_SECONDS = 15.0  # a million features take a tenth of a second to count


class Metrics:
    def __init__(self, store: Store, queue_depths: Callable[[], dict[str, int]]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "labeler_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "labeler_http_request_seconds", "Time to answer.", ("route",), registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
        )  # fmt: skip
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
            self._known = (
                time.monotonic(),
                [
                    *self._counted(),
                    self._used(),
                    _by_name("queue_depth", "Messages that no worker has taken.", "queue", self._queue_depths()),
                ],
            )
        yield from self._known[1]

    def _counted(self) -> Iterator[Metric]:
        for name, help_text, table in (
            ("features", "Features that have a result, by state.", RESULTS),
            ("jobs", "Jobs by state.", JOBS),
            ("blocks", "Blocks of jobs by state.", BLOCKS),
        ):
            with self._store.database.reading() as connection:
                counts = connection.execute(select(table.c.state, func.count()).group_by(table.c.state)).all()
            yield _by_name(name, help_text, "state", dict(map(tuple, counts)))

    def _used(self) -> Metric:
        names = ("requests", "tokens_in", "tokens_out", "cost_usd", "attempts", "lost")
        with self._store.database.reading() as connection:
            sums = connection.execute(select(*(func.coalesce(func.sum(BLOCKS.c[n]), 0) for n in names))).one()
        used = dict(zip(names, map(float, sums), strict=True))
        return _by_name("work", "What jobs have used, and blocks begun and lost.", "what", used)


def _by_name(name: str, help_text: str, label: str, values: dict[str, float] | dict[str, int]) -> Metric:
    family = GaugeMetricFamily(f"labeler_{name}", help_text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
