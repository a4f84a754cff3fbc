"""The planted SAE, at a hookpoint with a layer; a look-up label set, one in words, and the tree of the second."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.missing import label_missing
from labeler.neuronpedia.write import write_tree
from labeler.recipe import Recipe
from labeler.store import Store, open_store
from tests.gathering import change_manifest
from tests.planted import N_FEATURES
from tests.results import failed, labeled, silent

WORDS = Recipe.from_names("openai:m", scorers=["detection"])
LOOKUPS, IN_WORDS = 1, 2
NEGATIVE, UNDEFINED = 7, 8  # features whose score is below 0, and whose has no value


@dataclass(frozen=True)
class World:
    evidence: Path
    database: str


@pytest.fixture(scope="session")
def world(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("neuronpedia")
    evidence = folder / "evidence"
    shutil.copytree(planted_evidence, evidence)
    change_manifest(evidence, hookpoint="gpt_neox.layers.3")
    store = open_store(str(folder / "labeler.db"))
    gathered = EvidenceFolder(evidence)
    looked_up = store.label_set_for(gathered.manifest, str(evidence), Recipe())
    asyncio.run(label_missing(gathered, range(N_FEATURES), Recipe(), None, store, looked_up))
    in_words = store.label_set_for(gathered.manifest, str(evidence), WORDS)
    scores = {i: 0.1 * i for i in range(7)} | {NEGATIVE: -0.25, UNDEFINED: None}
    results = [labeled(i, score, f"letters such as {i}: “ä” and \\n") for i, score in scores.items()]
    store.save(in_words.id, [*results, silent(9), failed(10)])
    store.close()
    return World(evidence, str(folder / "labeler.db"))


@pytest.fixture
def store(world: World, tmp_path: Path) -> Iterator[Store]:
    """A copy of the database, in which the evidence is where it is."""
    shutil.copy(world.database, tmp_path / "labeler.db")
    store = open_store(str(tmp_path / "labeler.db"))
    yield store
    store.close()


@pytest.fixture(scope="session")
def whole_tree(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = open_store(world.database)
    out = tmp_path_factory.mktemp("tree") / "tree"
    write_tree(store, IN_WORDS, out, n_top=3)
    store.close()
    return out


@pytest.fixture
def tree(whole_tree: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(whole_tree, tmp_path / "tree")
    return tmp_path / "tree"


SOURCE = Path("v1/subject/3-sae")

Rows = list[dict[str, Any]]


def read_rows(path: Path) -> Rows:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def write_rows(path: Path, rows: Rows) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def change(path: Path, edit: Callable[[Rows], object]) -> None:
    rows = read_rows(path)
    edit(rows)
    write_rows(path, rows)
