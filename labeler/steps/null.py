"""Labels of other features, which show the scores that unrelated labels get: the null of every score."""

from __future__ import annotations

import logging
from dataclasses import replace

from labeler.errors import DamagedFeatureError
from labeler.evidence.choose import null_features
from labeler.evidence.store import EvidenceFolder
from labeler.recipe import ExplainerConfig, Recipe, SimulatorConfig
from labeler.records import Label
from labeler.steps.candidates import lookup_of
from labeler.steps.read import read_evidence

log = logging.getLogger(__name__)


class NullLabels:
    """Look-up labels of other features, which show the scores that unrelated labels get."""

    def __init__(self, folder: EvidenceFolder, recipe: Recipe) -> None:
        # One more than needed, so that a feature of the null still meets n_null labels of others.
        members = null_features(folder, recipe.contexts, folder.n_features, recipe.seed)
        # Whatever the recipe decides for a feature of its own, a label of another one is its look-up label.
        plain = replace(
            recipe,
            explainer=ExplainerConfig(),
            simulator=SimulatorConfig(),
            scorers=(),
            triage=None,
            contexts=replace(recipe.contexts, explain_hard=0, held_out_hard=0),
        )
        self._labels = {}
        self._n = recipe.n_null
        n_read = 0
        damaged: dict[str, list[DamagedFeatureError]] = {}
        for f in members:
            if n_read > recipe.n_null:
                break
            try:
                evidence = read_evidence(folder, f, plain)
            except DamagedFeatureError as error:
                damaged.setdefault(error.file, []).append(error)
                continue
            n_read += 1
            if evidence.too_little is None:
                self._labels[f] = lookup_of(evidence)

        # One line for each file: it may have thousands of damaged blocks, and a block hundreds of features.
        for errors in damaged.values():
            log.warning(
                "%d features of the null are replaced by others, the first since %s", len(errors), errors[0].reason
            )

    def for_feature(self, feature_index: int) -> list[Label]:
        return [label for f, label in self._labels.items() if f != feature_index][: self._n]
