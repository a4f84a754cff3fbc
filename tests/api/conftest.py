"""A service over a small world: the planted SAE, labelled by look-up, and a second label set made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.missing import label_missing
from labeler.recipe import Recipe
from labeler.settings import Settings
from labeler.store import open_store
from tests.planted import N_FEATURES
from tests.results import failed, labeled, silent
from tests.service import data, settings, store

__all__ = ["data", "http", "settings", "store", "world"]

WORDS = Recipe.from_names("openai:m")


@pytest.fixture(scope="session")
def world(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a database: label set 1 by look-up, label set 2 in words."""
    data = tmp_path_factory.mktemp("service")
    store = open_store(str(data / "labeler.db"))
    folder = EvidenceFolder(planted_evidence)
    looked_up = store.label_set_for(folder.manifest, str(planted_evidence), Recipe())
    asyncio.run(label_missing(folder, range(N_FEATURES), Recipe(), None, store, looked_up))
    in_words = store.label_set_for(folder.manifest, str(planted_evidence), WORDS)
    results = [labeled(i, 0.1 * i, f"letters such as {i} and running") for i in range(8)]
    store.save(in_words.id, [*results, labeled(8, None), silent(9), failed(10)])
    store.close()
    return data


@pytest.fixture
def http(settings: Settings) -> Iterator[TestClient]:
    """The service, asked from this machine."""
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
        yield client
