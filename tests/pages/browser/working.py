"""A service with everything behind it: Redis, a label worker, a gather worker, an endpoint over HTTP, and the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labeler.settings import Settings
from tests.pages.conftest import LiveServer
from tests.workers.conftest import Service, a_service


@dataclass(frozen=True)
class Working:
    address: str
    service: Service


@pytest.fixture(scope="package")
def working(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Working]:
    """Over a copy of the world, which these tests may change."""
    data = tmp_path_factory.mktemp("working") / "data"
    shutil.copytree(world, data)
    database = str(data / "labeler.db")
    with a_service(database, data, data / "evidence") as service:
        service.start_worker("label", processes=2)
        service.start_worker("gather")
        with LiveServer(Settings(database=database, data=data, redis=service.redis.url)) as address:
            service.wait_until_ready()
            yield Working(address, service)
