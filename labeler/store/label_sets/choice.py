"""One rule chooses the label set where a request names none.

`show`, `export`, pages, REST and look-ups all use it.

    for a feature      a set with a label for it, an LLM's before a look-up; then the one with the most labels; then the newest
    for a whole set    the one with the most labels; but a look-up set comes after an LLM's that covers what it does; the newest

So an attempt that failed never hides good labels, and a look-up made later never hides an LLM's labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from labeler.errors import NotFoundError
from labeler.store.base.columns import count_labeled
from labeler.store.base.store import LabelSetInfo, Store
from labeler.store.label_sets.queries import among as one_of
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS

COVERS = 0.9  # share of the labels of the SAE's fullest set: a few failed features do not bring the look-up back
_LOOKUP = "lookup"


@dataclass(frozen=True)
class Candidate:
    """A label set that may be chosen for its SAE."""

    id: int
    sae_id: int
    is_lookup: bool
    n_labeled: int

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Rank the set among those that have a label for a feature; the highest is chosen."""
        return not self.is_lookup, self.n_labeled, self.id


def candidates(
    connection: Connection,
    *,
    saes: Collection[int] | None = None,
    evidence_hash: str | None = None,
    among: Collection[int] | None = None,
    counted: bool = True,
) -> list[Candidate]:
    """List the label sets of these SAEs, of this evidence, or among the ids of `among`; without arguments, all.

    Their labels are counted only with `counted`, and only where there are several sets to compare.
    """
    query = select(LABEL_SETS.c.id, EVIDENCE.c.sae_id, LABEL_SETS.c.explainer).join(
        EVIDENCE, LABEL_SETS.c.evidence_id == EVIDENCE.c.id
    )
    if saes is not None:
        query = query.where(one_of(connection, EVIDENCE.c.sae_id, list(saes)))
    if evidence_hash is not None:
        query = query.where(EVIDENCE.c.hash == evidence_hash)
    if among is not None:
        query = query.where(one_of(connection, LABEL_SETS.c.id, list(among)))
    rows = connection.execute(query.order_by(LABEL_SETS.c.id)).all()
    # A single set needs no comparison, and most SAEs have only one.
    n_sets = Counter(row.sae_id for row in rows)
    needed = [row.id for row in rows if counted and (saes is None or n_sets[row.sae_id] > 1)]
    counts = count_labeled(connection, needed if len(rows) > 1 else [])
    return [Candidate(row.id, row.sae_id, row.explainer == _LOOKUP, counts.get(row.id, 0)) for row in rows]


def best_of(found: Sequence[Candidate]) -> Candidate | None:
    """Choose the set for a whole SAE.

    Of several SAEs, each chooses its set first; then only the numbers of labels are compared.
    """
    by_sae: dict[int, list[Candidate]] = {}
    for candidate in found:
        by_sae.setdefault(candidate.sae_id, []).append(candidate)
    winners = (_best_of_sae(sets) for sets in by_sae.values())
    return max(winners, key=lambda c: (c.n_labeled, c.id), default=None)


def _best_of_sae(sets: Sequence[Candidate]) -> Candidate:
    enough = max(1.0, COVERS * max(c.n_labeled for c in sets))
    return max(sets, key=lambda c: (not c.is_lookup and c.n_labeled >= enough, c.n_labeled, c.id))


def default_set(
    store: Store,
    *,
    sae: int | None = None,
    evidence_hash: str | None = None,
    feature: int | None = None,
    leave_out: int | None = None,
) -> int | None:
    """Return the default label set of an SAE, of evidence or of the whole database, by id; None without any.

    With `feature`, return the default label set for this feature of the SAE or evidence.
    """
    saes = None if sae is None else [sae]
    with store.database.reading() as connection:
        found = candidates(connection, saes=saes, evidence_hash=evidence_hash)
        found = [candidate for candidate in found if candidate.id != leave_out]
        best = None if feature is None else _best_for(connection, found, feature)
    best = best or best_of(found)
    return None if best is None else best.id


def _best_for(connection: Connection, found: Sequence[Candidate], feature: int) -> Candidate | None:
    """Choose the set for a feature; None where no set has a result for it."""
    query = select(RESULTS.c.label_set_id, RESULTS.c.label.is_not(None)).where(
        one_of(connection, RESULTS.c.label_set_id, [c.id for c in found]), RESULTS.c.feature_index == feature
    )
    has_label = dict(map(tuple, connection.execute(query)))
    tried = [candidate for candidate in found if candidate.id in has_label]
    return max(tried, key=lambda c: (bool(has_label[c.id]), c.rank), default=None)


def named_or_default(store: Store, label_set_id: int | None) -> LabelSetInfo:
    """Return the named label set, or the database's default one. Raises NotFoundError where the database has none."""
    chosen = default_set(store) if label_set_id is None else label_set_id
    if chosen is None:
        raise NotFoundError(f"database {store.database.name} holds no label set; make one with `labeler label`")
    return store.label_set(chosen)
