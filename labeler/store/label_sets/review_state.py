"""The reviews of labels, as a condition on rows of `result`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, exists, select

from labeler.store.tables.label_sets import RESULTS
from labeler.store.tables.service import STANDINGS
from labeler.terms import Verdict

_FEW = 3_000


def review_condition(connection: Connection, set_id: int, verdicts: Sequence[Verdict]) -> tuple[list[int] | None, Any]:
    """Return a condition: the newest review of a label has one of these verdicts (none: the label has no review).

    Where few features can meet the condition, they are returned with it. Reviews of an earlier text do not count.
    """
    here = (STANDINGS.c.label_set_id == RESULTS.c.label_set_id) & (STANDINGS.c.feature_index == RESULTS.c.feature_index)
    of_present = here & STANDINGS.c.reviewed_label.is_not_distinct_from(RESULTS.c.label)
    if not verdicts:
        return None, ~exists().where(of_present)
    so = STANDINGS.c.verdict.in_(verdicts)
    listed = select(STANDINGS.c.feature_index).where(STANDINGS.c.label_set_id == set_id, so).limit(_FEW + 1)
    found = list(connection.execute(listed).scalars())
    return found if len(found) <= _FEW else None, exists().where(of_present, so)
