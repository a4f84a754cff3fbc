"""What people say of labels: accept, reject, or a better text. A person's label stands beside the others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from labeler.errors import InputError, NotFoundError
from labeler.store.database import insert_into
from labeler.store.search import index_person_label
from labeler.store.service_tables import REVIEWS, STANDINGS
from labeler.store.store import Store
from labeler.store.tables import EVIDENCE, LABEL_SETS, RESULTS, now

LONGEST_LABEL, LONGEST_COMMENT = 200, 2000


class Verdict(StrEnum):
    ACCEPT = "accept"
    REJECT = "reject"
    BETTER = "better"  # comes with a better text


@dataclass(frozen=True)
class Review:
    id: int
    label_set_id: int
    feature_index: int
    verdict: Verdict
    text: str | None  # the better label
    comment: str | None
    reviewer: str
    reviewed_label: str | None  # the text that was judged
    created_at: datetime


def add_review(
    store: Store, label_set_id: int, feature_index: int, verdict: Verdict, reviewer: str,
    text: str | None = None, comment: str | None = None,
) -> Review:  # fmt: skip
    """Keep a review. Raises NotFoundError where the feature has no result in this label set, and InputError."""
    _check(verdict, text, comment)
    place = (RESULTS.c.label_set_id == label_set_id) & (RESULTS.c.feature_index == feature_index)
    with store.database.writing() as connection:
        # Reviews of one label come one after the other, so that the newest is the last to be written down.
        row = connection.execute(select(RESULTS.c.label).where(place).with_for_update(key_share=True)).one_or_none()
        if row is None or (row.label is None and verdict is not Verdict.BETTER):
            raise NotFoundError(
                f"feature {feature_index} has no label in label set {label_set_id}: there is nothing to {verdict}"
            )
        values = {
            "label_set_id": label_set_id, "feature_index": feature_index, "verdict": verdict, "text": text, "comment": comment,
            "reviewer": reviewer, "reviewed_label": row.label, "created_at": now(),
        }  # fmt: skip
        review_id = connection.execute(REVIEWS.insert().values(**values).returning(REVIEWS.c.id)).scalar_one()
        _stand(connection, values)
    return Review(id=review_id, **values)


def _stand(connection: Connection, review: dict[str, Any]) -> None:
    """What the reviews of this label come to, with this one as the newest."""
    key = {name: review[name] for name in ("label_set_id", "feature_index")}
    changed = {name: review[name] for name in ("verdict", "reviewed_label")}
    if review["text"] is not None:
        changed |= {"text": review["text"], "reviewer": review["reviewer"], "written_at": review["created_at"]}
        index_person_label(connection, **key, text=review["text"])
    insert = insert_into(STANDINGS, connection.dialect.name)
    connection.execute(insert.values(**key, **changed).on_conflict_do_update(index_elements=list(key), set_=changed))


def _check(verdict: Verdict, text: str | None, comment: str | None) -> None:
    if (verdict is Verdict.BETTER) != bool(text and text.strip()):
        raise InputError(f"verdict {verdict!s}: a better text comes with `better`, and with nothing else")
    if text is not None and (len(text) > LONGEST_LABEL or not text.isprintable()):
        raise InputError(f"text: a label is one printable line of at most {LONGEST_LABEL} characters")
    if comment is not None and len(comment) > LONGEST_COMMENT:
        raise InputError(f"comment: at most {LONGEST_COMMENT} characters")


def reviews_of_label(store: Store, label_set_id: int, feature_index: int) -> list[Review]:
    """Oldest first."""
    return _reviews(store, (REVIEWS.c.label_set_id == label_set_id) & (REVIEWS.c.feature_index == feature_index))


def reviews_of_feature(store: Store, sae: int, feature_index: int) -> list[Review]:
    """Of all labels of a feature, oldest first."""
    of_sae = (
        select(LABEL_SETS.c.id)
        .join(EVIDENCE, EVIDENCE.c.id == LABEL_SETS.c.evidence_id)
        .where(EVIDENCE.c.sae_id == sae)
    )
    return _reviews(store, REVIEWS.c.label_set_id.in_(of_sae) & (REVIEWS.c.feature_index == feature_index))


def _reviews(store: Store, where: ColumnElement[bool]) -> list[Review]:
    with store.database.reading() as connection:
        rows = connection.execute(select(REVIEWS).where(where).order_by(REVIEWS.c.id)).mappings()
        return [Review(**{**row, "verdict": Verdict(row["verdict"])}) for row in rows]
