"""The benchmark of the scores themselves, in small: it runs, and what it must show can be seen already."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def validity(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import validity

    monkeypatch.setattr(validity, "N_FEATURES", 5)
    monkeypatch.setattr(validity, "N_NULL", 90)
    return validity


def test_right_labels_are_above_wrong_ones_and_breadth_is_seen_by_the_weighted_score(validity):
    report = validity.graded_labels(2, np.random.default_rng(1), validity.ContextsConfig())
    ranked = report["ranking"]["all contexts"]
    assert ranked["n"] == 10
    assert ranked["unrelated"] >= 0.9
    assert ranked["too broad"] >= 0.8
    lost = {e: 1 - scores["too broad"] / scores["right"] for e, scores in report["breadth"].items()}
    assert lost["weighted"] > lost["pooled"] + 0.05
    assert report["coverage"]["pooled"]["all"]["n"] + report["coverage"]["pooled"]["without interval"] == 60


def test_right_labels_are_discovered_and_unrelated_ones_are_not(validity):
    report = validity.unrelated_labels(2, np.random.default_rng(1))
    assert report["right_labels_found"] >= 0.8
    assert report["false_discovery_rate"] <= 0.25
    assert report["p_values"]["looked up"]["distance"] < 0.6


def test_the_distance_to_uniform_p_values_sees_what_is_not_uniform(validity):
    uniform = (np.arange(1, 102) / 101).tolist()
    assert validity._uniform(uniform)["p"] > 0.9
    assert validity._uniform([p**2 for p in uniform])["p"] < 0.01
