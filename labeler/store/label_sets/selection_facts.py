"""Facts about features from the database and the evidence, for selections by condition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from labeler.errors import InputError, MismatchError
from labeler.evidence.store import EvidenceFolder
from labeler.records import State
from labeler.store.base.store import Store
from labeler.store.label_sets.catalogue import find_evidence, find_set
from labeler.store.label_sets.choice import default_set
from labeler.store.tables.label_sets import RESULTS


class StoredFacts:
    """Known (labeler/selection.py) for one label set and its evidence; each fact is read when it is first needed."""

    def __init__(self, store: Store, label_set_id: int, evidence_id: int, scores_of: int | None = None) -> None:
        self._store, self._label_set_id, self._evidence_id = store, label_set_id, evidence_id
        self._scores_of = scores_of

    def densities(self) -> np.ndarray:
        _, path = self._store.evidence(self._evidence_id)
        return EvidenceFolder(Path(path)).densities

    def finished(self) -> np.ndarray:
        return self._features(self._label_set_id, RESULTS.c.state != State.FAILED)

    def in_state(self, state: State) -> np.ndarray:
        return self._features(self._label_set_id, RESULTS.c.state == state)

    def scored(self, compare: Callable[[Any, Any], Any], value: float) -> np.ndarray:
        return self._features(self._earlier(), compare(RESULTS.c.score, value))

    def _earlier(self) -> int:
        """Return the label set whose scores a condition means.

        That is the named one, else the default one among the others of this evidence.
        """
        if self._scores_of is not None:
            return self._of_same_sae(self._scores_of)
        evidence = find_evidence(self._store, str(self._evidence_id))
        other = default_set(self._store, evidence_hash=evidence.hash, leave_out=self._label_set_id)
        if other is None:
            raise InputError(
                "features by score: this evidence has no other label set whose scores could be meant; "
                "label it once with a cheaper recipe, or select by density"
            )
        return other

    def _of_same_sae(self, label_set_id: int) -> int:
        wanted, other = find_evidence(self._store, str(self._evidence_id)), find_set(self._store, label_set_id)
        if other.sae_id != wanted.sae_id:
            raise MismatchError(
                f"scores_of: label set {label_set_id} is of SAE {other.sae_id}, and evidence {wanted.id} of SAE {wanted.sae_id}: "
                "their features are different ones; name a label set of the same SAE"
            )
        return label_set_id

    def _features(self, label_set_id: int, where: Any) -> np.ndarray:
        query = select(RESULTS.c.feature_index).where(RESULTS.c.label_set_id == label_set_id, where)
        with self._store.database.reading() as connection:
            found = connection.execution_options(yield_per=10_000).execute(query).scalars()
            return np.fromiter(found, dtype=np.int64)
