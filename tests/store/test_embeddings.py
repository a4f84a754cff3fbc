"""Search by meaning: what is found, what is asked for, and what is said of labels without an embedding."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from labeler.errors import MismatchError
from labeler.recipe import Recipe
from labeler.records import Label, LabeledFeature
from labeler.store import Store
from labeler.store.base import columns
from labeler.store.label_sets import embeddings
from labeler.store.label_sets.embeddings import (
    keep_embeddings,
    nearest_labels,
    parts_to_embed,
    place_part,
    texts_to_embed,
)
from tests.results import failed, labeled, manifest, silent

N, N_DIMENSIONS = 400, 96
MODEL = "places"


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (columns, embeddings):
        monkeypatch.setattr(module, "PART", 64)
    monkeypatch.setattr(embeddings, "_PARTS_AT_ONCE", 3)


def label_set_of(store: Store, model: str = "openai:m", n_features: int = N) -> int:
    world = manifest(sae={**manifest()["sae"], "n_features": n_features})
    return store.label_set_for(world, "/evidence", Recipe.from_names(model)).id


def vectors_of(texts: list[str], n_dimensions: int = N_DIMENSIONS) -> np.ndarray:
    """Each text has a vector of its own, the same in every test."""
    seeds = (int.from_bytes(text.encode()[-7:], "little") for text in texts)
    return np.array([np.random.default_rng(seed).standard_normal(n_dimensions) for seed in seeds], np.float32)


def embed(store: Store, label_set: int) -> list[str]:
    """What `labeler embed` does with a model of ours; the texts that were asked about."""
    asked = []
    for part in parts_to_embed(store, label_set, MODEL):
        if texts := texts_to_embed(store, label_set, part, MODEL):
            keep_embeddings(store, MODEL, texts, vectors_of(texts))
        place_part(store, label_set, part, MODEL)
        asked += texts
    return asked


def results(n: int = N) -> list[LabeledFeature]:
    made = [labeled(i, 0.5, f"label {i // 2}") for i in range(n)]  # two features have the same label
    return [*made[:-2], silent(n - 2), failed(n - 1)]


def cosines_to(query: np.ndarray, texts: list[str]) -> np.ndarray:
    vectors = vectors_of(texts).astype(float)
    return vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


def test_the_nearest_labels_are_those_of_all_cosines(store: Store) -> None:
    label_set = label_set_of(store)
    store.save(label_set, results())
    embed(store, label_set)
    query = vectors_of(["something else"])[0]
    texts = [f"label {i // 2}" for i in range(N - 2)]
    exact = cosines_to(query, texts)
    found = nearest_labels(store, MODEL, query, [label_set], 20)
    assert (found.n_hits, found.complete) == (N - 2, True)
    assert [h.rank for h in found.hits] == pytest.approx(np.sort(exact)[::-1][:20], abs=0.005)
    assert [h.rank for h in found.hits] == pytest.approx([exact[h.feature_index] for h in found.hits], abs=0.005)
    assert all(a.rank > b.rank or a.feature_index < b.feature_index for a, b in pairwise(found.hits))


def test_of_many_labels_those_with_like_signs_are_ranked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "NEAREST", 40)
    label_set = label_set_of(store)
    store.save(label_set, [labeled(i, 0.5, f"label {i}") for i in range(N)])
    embed(store, label_set)
    for wanted in (7, 130, 399):
        query = vectors_of([f"label {wanted}"])[0] + 0.7 * vectors_of(["noise"])[0]
        found = nearest_labels(store, MODEL, query, [label_set], 5)
        assert found.n_hits == 40
        assert found.hits[0].feature_index == wanted
        assert found.hits[0].rank == pytest.approx(cosines_to(query, [f"label {wanted}"])[0], abs=0.005)


def test_a_text_is_asked_about_once_whatever_set_has_it(store: Store) -> None:
    first, second = label_set_of(store), label_set_of(store, "openai:other")
    store.save(first, results())
    assert sorted(embed(store, first)) == sorted({f"label {i // 2}" for i in range(N - 2)})
    assert embed(store, first) == []
    store.save(second, [labeled(0, 0.5, "label 0"), labeled(1, 0.5, "a new one")])
    assert embed(store, second) == ["a new one"]
    found = nearest_labels(store, MODEL, vectors_of(["label 0"])[0], [first, second], 3)
    assert [(h.label_set_id, h.feature_index) for h in found.hits] == [(first, 0), (first, 1), (second, 0)]
    assert found.hits[0].rank == pytest.approx(1.0, abs=1e-3)


def test_a_label_that_changes_is_missed_until_it_is_embedded(store: Store) -> None:
    label_set = label_set_of(store)
    store.save(label_set, results())
    embed(store, label_set)
    query = vectors_of(["label 3"])[0]
    assert [h.feature_index for h in nearest_labels(store, MODEL, query, [label_set], 2).hits] == [6, 7]
    store.save(label_set, [labeled(6, 0.5, "quite another")])
    found = nearest_labels(store, MODEL, query, [label_set], 2)
    assert found.hits[0].feature_index == 7
    assert 6 not in {h.feature_index for h in nearest_labels(store, MODEL, query, [label_set], N).hits}
    assert not found.complete
    assert embed(store, label_set) == ["quite another"]
    found = nearest_labels(store, MODEL, vectors_of(["quite another"])[0], [label_set], 1)
    assert (found.hits[0].feature_index, found.complete) == (6, True)


def test_pages_hold_every_hit_once(store: Store) -> None:
    label_set = label_set_of(store)
    store.save(label_set, results())
    embed(store, label_set)
    query, after, seen = vectors_of(["x"])[0], None, list[int]()
    while page := nearest_labels(store, MODEL, query, [label_set], 7, after).hits:
        seen += [h.feature_index for h in page]
        after = page[-1].position
    assert sorted(seen) == list(range(N - 2))


def test_without_embeddings_nothing_is_found_and_said_to_be_missing(store: Store) -> None:
    label_set, empty = label_set_of(store), label_set_of(store, "openai:empty")
    query = vectors_of(["x"])[0]
    assert nearest_labels(store, MODEL, query, [empty], 5) == embeddings.Hits((), 0, True)
    store.save(label_set, results())
    assert nearest_labels(store, MODEL, query, [label_set], 5) == embeddings.Hits((), 0, False)
    embed(store, label_set)
    assert nearest_labels(store, "another", query, [label_set], 5) == embeddings.Hits((), 0, False)


def test_vectors_of_another_length_are_another_model(store: Store) -> None:
    label_set = label_set_of(store)
    store.save(label_set, results())
    embed(store, label_set)
    for n_dimensions in (N_DIMENSIONS - 1, 2 * N_DIMENSIONS):
        with pytest.raises(MismatchError, match="'places' have another number of dimensions"):
            nearest_labels(store, MODEL, vectors_of(["x"], n_dimensions)[0], [label_set], 5)
    store.save(label_set, [labeled(0, 0.5, "newcomer")])
    keep_embeddings(store, MODEL, ["newcomer"], vectors_of(["newcomer"], 32))
    assert parts_to_embed(store, label_set, MODEL) == [0]
    with pytest.raises(MismatchError, match="embeddings of several lengths"):
        place_part(store, label_set, 0, MODEL)


def test_a_vector_of_nothing_is_near_to_nothing(store: Store) -> None:
    label_set = label_set_of(store, n_features=4)
    store.save(label_set, [replace(labeled(0, 0.5), label=Label("void", "openai:m"))])
    parts_to_embed(store, label_set, MODEL)
    keep_embeddings(store, MODEL, ["void"], np.zeros((1, N_DIMENSIONS), np.float32))
    place_part(store, label_set, 0, MODEL)
    assert [h.rank for h in nearest_labels(store, MODEL, vectors_of(["x"])[0], [label_set], 5).hits] == [0.0]
