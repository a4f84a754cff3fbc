"""Search by meaning over a million labels: milliseconds a search, beside the exact cosines of all, and how many of the nearest are found.

    python benchmarks/meaning.py [--features 1000000] [--dimensions 384] [--searches 30] [--folder DIR] [--json]

Fills SQLite as service_read.py does. In the place of a model, a text lies at the sum of the vectors of its words, which are
seeded at random; a query is three words of some label. The floor, in the same run and on the same queries, is one product of
the query with a matrix of all vectors, float32 and in memory, which is also what the 30 nearest are counted against.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from service_read import fill

from labeler.store import Store, open_store
from labeler.store.label_sets.embeddings import (
    keep_embeddings,
    nearest_labels,
    parts_to_embed,
    place_part,
    texts_to_embed,
)

MODEL, SHOWN = "words", 30


class Words:
    """The vector of each word, and of a text."""

    def __init__(self, n_dimensions: int) -> None:
        self._n_dimensions = n_dimensions
        self._vectors: dict[str, np.ndarray] = {}

    def place(self, texts: list[str]) -> np.ndarray:
        return np.stack(
            [sum((self._of(w) for w in text.split()), np.zeros(self._n_dimensions, np.float32)) for text in texts]
        )

    def _of(self, word: str) -> np.ndarray:
        if word not in self._vectors:
            rng = np.random.default_rng(zlib.crc32(word.encode()))
            self._vectors[word] = rng.standard_normal(self._n_dimensions, np.float32)
        return self._vectors[word]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--features", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--searches", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="keep the database here, and use it again")
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="labeler-meaning-"))
    try:
        store = open_store(str(folder / f"labels-{asked.features}.db"), pooled=True)
        fill(store, asked.features)
        found = measure(store, Words(asked.dimensions), asked.searches)
        store.close()
    finally:
        if asked.folder is None:
            shutil.rmtree(folder)
    print(
        f"{found['labels']:,.0f} labels placed in {found['placing_s']:.0f} s; a search {found['ms']:.0f} ms (p95 {found['ms_p95']:.0f}), "
        f"exact cosines in memory {found['exact_ms']:.0f} ms; {found['recall']:.1%} of the {SHOWN} nearest found; "
        f"searching grew the process by {found['grown_mb']:.0f} MB"
    )
    if asked.json:
        print(
            json.dumps({"benchmark": "meaning", "n_features": asked.features, "dimensions": asked.dimensions} | found)
        )


def measure(store: Store, words: Words, n_searches: int) -> dict[str, float]:
    began = time.perf_counter()
    for part in parts_to_embed(store, 1, MODEL):
        if texts := texts_to_embed(store, 1, part, MODEL):
            keep_embeddings(store, MODEL, texts, words.place(texts))
        place_part(store, 1, part, MODEL)
    placing = time.perf_counter() - began
    labels = [(i, label) for i, label in _labels(store)]
    rng = np.random.default_rng(0)
    queries = [words.place([" ".join(labels[rng.integers(len(labels))][1].split()[:3])])[0] for _ in range(n_searches)]
    nearest_labels(store, MODEL, queries[0], [1], SHOWN)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times, found = [], []
    for query in queries:
        began = time.perf_counter()
        hits = nearest_labels(store, MODEL, query, [1], SHOWN).hits
        times.append(1000 * (time.perf_counter() - began))
        found.append({hit.feature_index for hit in hits})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    exact_times, recalls = exactly(words, labels, queries, found)
    return {
        "labels": len(labels),
        "placing_s": placing,
        "ms": statistics.median(times),
        "ms_p95": float(np.quantile(times, 0.95)),
        "exact_ms": statistics.median(exact_times),
        "recall": statistics.mean(recalls),
        "grown_mb": grown / 1024,
    }


def exactly(
    words: Words, labels: list[tuple[int, str]], queries: list[np.ndarray], found: list[set[int]]
) -> tuple[list[float], list[float]]:
    """Milliseconds of each exact search, and the share of its nearest that the other one has found."""
    vectors = np.concatenate(
        [words.place([text for _, text in labels[i : i + 10_000]]) for i in range(0, len(labels), 10_000)]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    features = np.array([feature for feature, _ in labels])
    times, recalls = [], []
    for query, hits in zip(queries, found, strict=True):
        began = time.perf_counter()
        cosines = vectors @ query
        nearest = np.argpartition(-cosines, SHOWN)[:SHOWN]
        times.append(1000 * (time.perf_counter() - began))
        recalls.append(len(hits & set(features[nearest].tolist())) / SHOWN)
    return times, recalls


def _labels(store: Store) -> list[tuple[int, str]]:
    from sqlalchemy import select

    from labeler.store.tables.label_sets import RESULTS

    query = select(RESULTS.c.feature_index, RESULTS.c.label).where(RESULTS.c.label.is_not(None))
    with store.database.reading() as connection:
        return [(feature, label) for feature, label in connection.execute(query)]


if __name__ == "__main__":
    main()
