"""Reviews and API keys, on both databases."""

from __future__ import annotations

import hashlib
import json
import threading

import pytest
from sqlalchemy import select

from labeler.errors import ConflictError, InputError, NotFoundError
from labeler.export.stream import encode_rows, read_rows
from labeler.recipe import Recipe
from labeler.store import API_KEYS, Store
from labeler.store.base.columns import version_of_rows
from labeler.store.label_sets.batch_get import batch_get
from labeler.store.label_sets.queries import LabelFilter, Reviewed, list_labels
from labeler.store.label_sets.search import Hit, search_labels
from labeler.store.label_sets.written import people_of_feature, people_say, rows_of_hits
from labeler.store.people.keys import any_key, create_key, list_keys, revoke_key, verify_key
from labeler.store.people.reviews import add_review, reviews_of_feature, reviews_of_label, withdraw_review
from labeler.terms import Choose, Scope, Verdict
from tests.results import labeled, manifest, silent


@pytest.fixture
def label_set(store: Store) -> int:
    info = store.label_set_for(manifest(), "/evidence", Recipe())
    store.save(info.id, [labeled(0, text="the year"), silent(1)])
    return info.id


def test_a_review_stands_beside_the_label(store: Store, label_set: int) -> None:
    add_review(store, label_set, 0, Verdict.REJECT, "ann", comment="too broad")
    better = add_review(store, label_set, 0, Verdict.CORRECTED, "ben", "the year of a birth")
    row = store.row(label_set, 0)
    assert row is not None
    assert row["label"] == "the year", "never an overwrite"
    assert reviews_of_label(store, label_set, 0)[1] == better
    # The judged text is kept: a later run may write another label.
    store.save(label_set, [labeled(0, text="a number")])
    assert [r.reviewed_label for r in reviews_of_feature(store, 1, 0)] == ["the year", "the year"]
    assert reviews_of_label(store, label_set, 1) == []


def test_a_label_by_a_person_is_found_beside_the_other(store: Store, label_set: int) -> None:
    for verdict, text in (
        (Verdict.CORRECTED, "the year of a birth"),
        (Verdict.CORRECTED, "a birthday"),
        (Verdict.ACCEPT, None),
    ):
        add_review(store, label_set, 0, verdict, "ann", text)
    add_review(store, label_set, 1, Verdict.CORRECTED, "ben", "a year, elsewhere")
    both = search_labels(store, "year", [label_set], 10).hits
    assert {(hit.feature_index, hit.by_person) for hit in both} == {(0, False), (1, True)}, "the newest text alone"
    assert [hit.by_person for hit in search_labels(store, "birthday", [label_set], 10).hits] == [True]
    found = {row["label"]: row for row in rows_of_hits(store, [*both, Hit(label_set, 0, 1.0, True)]) if row}
    assert found["the year"]["score"] == 0.5
    written = found["a birthday"]
    assert (written["explainer"], written["score"], written["state"]) == ("person:ann", None, "labeled")
    assert "not scored" in written["score_reason"]
    assert written["density"] == found["the year"]["density"]
    # The other label is another one: it is replaced, and the person's stays.
    store.save(label_set, [labeled(0, text="a number")])
    assert len(search_labels(store, "birthday", [label_set], 10).hits) == 1
    rows = [json.loads(line) for line in b"".join(encode_rows("jsonl", read_rows(store, label_set), dict)).splitlines()]
    assert [(row["label"], row["verdict"], row["person_label"]) for row in rows] == [
        ("a number", None, "a birthday"),
        (None, "corrected", "a year, elsewhere"),
    ]
    assert people_say(store, label_set) == {"accepted": 1, "rejected": 0, "corrected": 1, "labels": 2}


def test_a_look_up_may_prefer_people(store: Store, label_set: int) -> None:
    newer = store.label_set_for(manifest(), "/evidence", Recipe(seed=1)).id
    store.save(newer, [labeled(0, text="newer"), labeled(2, text="newer still")])
    add_review(store, label_set, 0, Verdict.CORRECTED, "ann", "by ann")
    add_review(store, label_set, 1, Verdict.CORRECTED, "ann", "silent, says ann")
    pairs = [(1, i) for i in range(4)]

    def texts(choose: Choose, sets: list[int] | None = None) -> list[str | None]:
        return [row and row["label"] for row in batch_get(store, pairs, choose=choose, label_sets=sets)]

    assert texts(Choose.PERSON) == ["by ann", "silent, says ann", "newer still", None]
    assert texts(Choose.PERSON, [newer]) == ["newer", None, "newer still", None]
    assert texts(Choose.NEWEST) == ["newer", None, "newer still", None]
    add_review(store, newer, 0, Verdict.CORRECTED, "ben", "by ben")
    assert texts(Choose.PERSON)[0] == "by ben", "of the newest label set"
    assert [row["label"] for row in people_of_feature(store, 1, 0)] == ["by ben", "by ann"]


def test_of_reviews_at_once_the_newest_stands(store: Store, label_set: int) -> None:
    def review(name: str) -> None:
        for i in range(10):
            add_review(store, label_set, 0, Verdict.CORRECTED, name, f"{name} {i}")

    threads = [threading.Thread(target=review, args=(name,)) for name in ("ann", "ben", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written = reviews_of_label(store, label_set, 0)
    assert len(written) == 30
    assert people_of_feature(store, 1, 0)[0]["label"] == written[-1].text


def test_what_is_no_review_is_refused(store: Store, label_set: int) -> None:
    for verdict, text in ((Verdict.CORRECTED, None), (Verdict.CORRECTED, "  "), (Verdict.ACCEPT, "text")):
        with pytest.raises(InputError, match="a corrected text"):
            add_review(store, label_set, 0, verdict, "ann", text)
    for text in ("x" * 201, "two\nlines", "right\u202eleft"):
        with pytest.raises(InputError, match="one printable line"):
            add_review(store, label_set, 0, Verdict.CORRECTED, "ann", text)
    with pytest.raises(NotFoundError, match="nothing to accept"):
        add_review(store, label_set, 1, Verdict.ACCEPT, "ann")
    with pytest.raises(NotFoundError):
        add_review(store, label_set, 5, Verdict.CORRECTED, "ann", "no such feature")
    assert add_review(store, label_set, 1, Verdict.CORRECTED, "ann", "fires elsewhere").reviewed_label is None


def test_the_words_of_earlier_versions_are_understood(store: Store, label_set: int) -> None:
    assert Verdict("better") is Verdict.CORRECTED
    add_review(store, label_set, 0, Verdict("better"), "ann", "a year")
    assert [r.verdict for r in reviews_of_label(store, label_set, 0)] == [Verdict.CORRECTED]


def test_a_key_is_shown_once_and_kept_as_a_hash(store: Store) -> None:
    assert not any_key(store)
    key, text = create_key(store, "ann", Scope.SUBMIT)
    assert verify_key(store, text) == key
    with store.database.reading() as connection:
        row = connection.execute(select(API_KEYS)).mappings().one()
    secret = text.removeprefix(f"lbl_{key.id}_")
    assert row["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(dict(row))
    assert len(secret) == 43, "256 bits"
    assert "sha256" not in str(list_keys(store))


def test_a_wrong_or_revoked_key_opens_nothing(store: Store) -> None:
    key, text = create_key(store, "ann", Scope.READ)
    other, _ = create_key(store, "ben", Scope.ADMIN)
    assert verify_key(store, text[:-1] + ("A" if text[-1] != "A" else "B")) is None
    assert verify_key(store, text.replace(key.id, other.id)) is None, "a secret opens its own key alone"
    for odd in ("", "lbl_", text + "x", text.replace("lbl", "LBL"), "lbl_00000000_" + "A" * 43, text + "\n"):
        assert verify_key(store, odd) is None
    assert revoke_key(store, key.id).revoked_at is not None
    assert verify_key(store, text) is None
    assert revoke_key(store, key.id) == revoke_key(store, key.id)
    assert any_key(store), "revoking the last key must not open the service"
    with pytest.raises(NotFoundError):
        revoke_key(store, "nothing")


def test_scopes_are_in_an_order() -> None:
    allowed = {(a, b) for a in Scope for b in Scope if a.includes(b)}
    r, s, a = Scope
    assert allowed == {(r, r), (s, r), (s, s), (a, r), (a, s), (a, a)}


def test_a_key_without_sense_is_refused(store: Store) -> None:
    for name in ("", "  ", "x" * 101, "two\nlines"):
        with pytest.raises(InputError, match="name"):
            create_key(store, name, Scope.READ)
    with pytest.raises(InputError, match="100/minute"):
        create_key(store, "ann", Scope.READ, "often")


def _stands(store: Store, label_set: int) -> tuple[list[int], list[str | None]]:
    """Features accepted, and the labels by people that a search for `birthday` finds."""
    accepted = list_labels(store, LabelFilter(label_set=label_set, reviewed=Reviewed.ACCEPTED)).rows
    hits = search_labels(store, "birthday", [label_set], 10).hits
    return [row["feature_index"] for row in accepted], [row and row["label"] for row in rows_of_hits(store, hits)]


def test_a_withdrawn_review_counts_no_more_and_stays_in_the_history(store: Store, label_set: int) -> None:
    add_review(store, label_set, 0, Verdict.ACCEPT, "ann")
    first = add_review(store, label_set, 0, Verdict.CORRECTED, "ann", "a birthday")
    second = add_review(store, label_set, 0, Verdict.CORRECTED, "ben", "another birthday")
    assert _stands(store, label_set) == ([], ["another birthday"])
    withdrawn = withdraw_review(store, label_set, 0, second.id, "ben")
    assert (withdrawn.withdrawn_by, withdrawn.text) == ("ben", "another birthday")
    assert _stands(store, label_set) == ([], ["a birthday"]), "what was said before stands again"
    withdraw_review(store, label_set, 0, first.id, "ann")
    assert _stands(store, label_set) == ([0], [])
    assert people_of_feature(store, 1, 0) == []
    accepted = reviews_of_label(store, label_set, 0)[0]
    withdraw_review(store, label_set, 0, accepted.id, "root", of_anyone=True)
    assert people_say(store, label_set)["labels"] == 0
    history = reviews_of_label(store, label_set, 0)
    assert [(r.verdict, r.withdrawn_by) for r in history] == [
        ("accept", "root"),
        ("corrected", "ann"),
        ("corrected", "ben"),
    ]
    again = withdraw_review(store, label_set, 0, accepted.id, "ann")
    assert again == history[0], "once is enough"


def test_a_withdrawal_is_a_new_version_of_the_export(store: Store, label_set: int) -> None:
    review = add_review(store, label_set, 0, Verdict.ACCEPT, "ann")

    def version() -> str:
        with store.database.reading() as connection:
            return version_of_rows(connection, label_set)

    before = version()
    withdraw_review(store, label_set, 0, review.id, "ann")
    assert version() != before


def test_only_its_author_or_an_admin_withdraws_a_review(store: Store, label_set: int) -> None:
    review = add_review(store, label_set, 0, Verdict.REJECT, "ann")
    with pytest.raises(ConflictError, match="is by ann"):
        withdraw_review(store, label_set, 0, review.id, "ben")
    for place in ((label_set, 1, review.id), (label_set, 0, review.id + 1)):
        with pytest.raises(NotFoundError, match="has no review"):
            withdraw_review(store, *place, "ann")
    assert reviews_of_label(store, label_set, 0) == [review]


def test_a_comment_changes_no_verdict(store: Store, label_set: int) -> None:
    add_review(store, label_set, 0, Verdict.ACCEPT, "ann")
    add_review(store, label_set, 0, Verdict.COMMENT, "ben", comment="also in dates")
    add_review(store, label_set, 1, Verdict.COMMENT, "ben", comment="silent here too")
    assert _stands(store, label_set)[0] == [0]
    assert people_say(store, label_set) == {"accepted": 1, "rejected": 0, "corrected": 0, "labels": 0}
    with pytest.raises(InputError, match="comment: write some words"):
        add_review(store, label_set, 0, Verdict.COMMENT, "ben", comment=" ")
