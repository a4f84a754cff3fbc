"""Scores beside simulation in the columns of a result, and back."""

from __future__ import annotations

from labeler.records import Score, Simulation
from labeler.store.read import result_from_row
from labeler.store.rows import row_of
from tests.results import context, labeled

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
