"""Reviews of labels by people: accept, reject, a corrected text, or a comment.

add_review ──► counts until it is withdrawn ──withdraw_review──► stays in the history, and counts no more
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, select

from labeler.errors import ConflictError, InputError, NotFoundError
from labeler.store.base.database import insert_into
from labeler.store.base.store import Store
from labeler.store.label_sets.search import forget_person_label, index_person_label
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS, now
from labeler.store.tables.service import REVIEWS, STANDINGS
from labeler.terms import LONGEST_COMMENT, LONGEST_LABEL, Verdict


@dataclass(frozen=True)
class Review:
    id: int
    label_set_id: int
    feature_index: int
    verdict: Verdict
    text: str | None  # the corrected label
    comment: str | None
    reviewer: str
    reviewed_label: str | None  # the text that was judged
    created_at: datetime
    withdrawn_at: datetime | None = None  # since then it does not count
    withdrawn_by: str | None = None


def add_review(
    store: Store,
    label_set_id: int,
    feature_index: int,
    verdict: Verdict,
    reviewer: str,
    text: str | None = None,
    comment: str | None = None,
) -> Review:
    """Save a review. Raises NotFoundError where the feature has no result in this label set, and InputError."""
    _check(verdict, text, comment)
    with store.database.writing() as connection:
        label = _judged_label(connection, label_set_id, feature_index, verdict)
        values: dict[str, Any] = {
            "label_set_id": label_set_id,
            "feature_index": feature_index,
            "verdict": verdict,
            "text": text,
            "comment": comment,
            "reviewer": reviewer,
            "reviewed_label": label,
            "created_at": now(),
        }
        review_id = connection.execute(REVIEWS.insert().values(**values).returning(REVIEWS.c.id)).scalar_one()
        _stand(connection, label_set_id, feature_index)
    return Review(id=review_id, **values)


def withdraw_review(
    store: Store, label_set_id: int, feature_index: int, review_id: int, by: str, *, of_anyone: bool = False
) -> Review:
    """Withdraw a review: it no longer counts but stays in the history, and earlier reviews count again.

    `by` may withdraw only reviews under this name; with `of_anyone`, all. Withdrawing twice changes nothing. Raises
    NotFoundError where this label has no such review, and ConflictError where it is by another person.
    """
    of_label = _of_label(label_set_id, feature_index)
    with store.database.writing() as connection:
        _lock_result(connection, label_set_id, feature_index)
        found = connection.execute(select(REVIEWS).where(of_label, REVIEWS.c.id == review_id)).mappings().one_or_none()
        if found is None:
            raise NotFoundError(f"feature {feature_index} has no review {review_id} in label set {label_set_id}")
        review = _review(found)
        if review.reviewer != by and not of_anyone:
            raise ConflictError(
                f"review {review_id} is by {review.reviewer}: only they or an admin key can withdraw it"
            )
        if review.withdrawn_at is None:
            review = replace(review, withdrawn_at=now(), withdrawn_by=by)
            changed = {"withdrawn_at": review.withdrawn_at, "withdrawn_by": by}
            connection.execute(REVIEWS.update().where(REVIEWS.c.id == review_id).values(**changed))
            _stand(connection, label_set_id, feature_index)
    return review


def _judged_label(connection: Connection, label_set_id: int, feature_index: int, verdict: Verdict) -> str | None:
    """Return the present label. Raises NotFoundError where there is none to accept or to reject."""
    row = _lock_result(connection, label_set_id, feature_index)
    needs_label = verdict in (Verdict.ACCEPT, Verdict.REJECT)
    if row is None or (row.label is None and needs_label):
        raise NotFoundError(
            f"feature {feature_index} has no label in label set {label_set_id}: there is nothing to {verdict}"
        )
    label: str | None = row.label
    return label


def _lock_result(connection: Connection, label_set_id: int, feature_index: int) -> Any:
    """Lock the result, so that reviews of one label come one after the other and the newest is written last."""
    place = (RESULTS.c.label_set_id == label_set_id) & (RESULTS.c.feature_index == feature_index)
    return connection.execute(select(RESULTS.c.label).where(place).with_for_update(key_share=True)).one_or_none()


def _stand(connection: Connection, label_set_id: int, feature_index: int) -> None:
    """Save the sum of a label's reviews that count: the newest verdict, and the newest text."""
    key = {"label_set_id": label_set_id, "feature_index": feature_index}
    counts = REVIEWS.c.withdrawn_at.is_(None) & (REVIEWS.c.verdict != Verdict.COMMENT)
    query = select(REVIEWS).where(_of_label(**key), counts).order_by(REVIEWS.c.id.desc())
    said = connection.execute(query).mappings().all()
    written = next((row for row in said if row["text"] is not None), None)
    if written is None:
        forget_person_label(connection, **key)
    else:
        index_person_label(connection, **key, text=written["text"])
    if not said:
        stands = (STANDINGS.c.label_set_id == label_set_id) & (STANDINGS.c.feature_index == feature_index)
        connection.execute(STANDINGS.delete().where(stands))
        return
    values = {
        "verdict": said[0]["verdict"],
        "reviewed_label": said[0]["reviewed_label"],
        "text": written and written["text"],
        "reviewer": written and written["reviewer"],
        "written_at": written and written["created_at"],
    }
    insert = insert_into(STANDINGS, connection.dialect.name)
    connection.execute(insert.values(**key, **values).on_conflict_do_update(index_elements=list(key), set_=values))


def _check(verdict: Verdict, text: str | None, comment: str | None) -> None:
    if (verdict is Verdict.CORRECTED) != bool(text and text.strip()):
        raise InputError(f"verdict {verdict!s}: a corrected text comes with `corrected`, and with nothing else")
    if text is not None and (len(text) > LONGEST_LABEL or not text.isprintable()):
        raise InputError(f"text: a label is one printable line of at most {LONGEST_LABEL} characters")
    if verdict is Verdict.COMMENT and not (comment and comment.strip()):
        raise InputError("comment: write some words, or choose another verdict")
    if comment is not None and len(comment) > LONGEST_COMMENT:
        raise InputError(f"comment: at most {LONGEST_COMMENT} characters")


def reviews_of_label(store: Store, label_set_id: int, feature_index: int) -> list[Review]:
    """List the reviews of one label, oldest first."""
    return _reviews(store, _of_label(label_set_id, feature_index))


def reviews_of_feature(store: Store, sae: int, feature_index: int) -> list[Review]:
    """List the reviews of all labels of a feature, oldest first."""
    of_sae = (
        select(LABEL_SETS.c.id)
        .join(EVIDENCE, EVIDENCE.c.id == LABEL_SETS.c.evidence_id)
        .where(EVIDENCE.c.sae_id == sae)
    )
    return _reviews(store, REVIEWS.c.label_set_id.in_(of_sae) & (REVIEWS.c.feature_index == feature_index))


def _reviews(store: Store, where: ColumnElement[bool]) -> list[Review]:
    with store.database.reading() as connection:
        rows = connection.execute(select(REVIEWS).where(where).order_by(REVIEWS.c.id)).mappings()
        return [_review(row) for row in rows]


def _review(row: RowMapping | dict[Any, Any]) -> Review:
    return Review(**{**row, "verdict": Verdict(row["verdict"])})


def _of_label(label_set_id: int, feature_index: int) -> ColumnElement[bool]:
    return (REVIEWS.c.label_set_id == label_set_id) & (REVIEWS.c.feature_index == feature_index)
