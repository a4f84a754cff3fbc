"""Scores beside simulation in the columns of a result, and back."""

from __future__ import annotations

import pytest

from labeler.recipe import Recipe
from labeler.records import Score, Simulation
from labeler.store import Store
from labeler.store.base.rows import row_of
from labeler.store.label_sets.read import result_from_row
from tests.results import context, labeled, manifest

SCORES = (
    Score("simulation", 0.5, n=20),
    Score("detection", 0.75, low=0.6, high=0.9, n=38, n_failed=2, null_mean=0.5),
    Score("fuzzing", None, "every request failed: endpoint: down", n_failed=40),
)


def test_detection_and_fuzzing_have_columns_of_their_own() -> None:
    row = row_of(1, labeled(3, scores=SCORES))
    assert (row["detection"], row["fuzzing"]) == (0.75, None)
    row = row_of(1, labeled(3))
    assert (row["detection"], row["fuzzing"]) == (None, None)


def test_scores_and_flagged_predictions_come_back_as_they_were() -> None:
    simulations = (Simulation(context(), (0.0, 7.5, 1.0), n_flagged=2), Simulation(context(96), None, "malformed: no"))
    feature = labeled(3, scores=SCORES, simulations=simulations)
    row = row_of(1, feature)
    assert result_from_row(row, lambda stored: context(stored["token_start"])) == feature


def test_a_reason_with_half_a_surrogate_pair_can_be_read_back(store: Store) -> None:
    info = store.label_set_for(manifest(), "/evidence", Recipe())
    store.save(info.id, [labeled(3, scores=(*SCORES[:2], Score("length", None, "no number: '\ud800'")))])
    assert store.named_scores(info.id, "length") == ([], {"no number: '?'": 1})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_score_is_a_number_or_nothing(number: float) -> None:
    with pytest.raises(ValueError, match="give None, with a reason"):
        Score("length", number)
    with pytest.raises(ValueError, match="give None, with a reason"):
        Score("length", 1.0, low=number)
