"""Full text over labels: FTS5 in SQLite, tsvector in PostgreSQL, the same small language in both.

    red "blue sky" -green        with `red` and the phrase, without `green`; words are stemmed as English

There are no other signs and no operators: `or` is a word like any other. PostgreSQL leaves out English stop words, in
labels and in searches: `the year` finds the same as `year`, and `the` by itself finds nothing. SQLite searches for stop
words too.

Triggers maintain the index (migration 0004), so that a saved label is found at once, and so is one that a person wrote.
In SQLite a row's id is label_set_id * 2^32 + feature_index, so that one range of ids is one label set. With 2^31 added,
it is the id of the person's label.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection
from sqlalchemy import text as sql

from labeler.errors import InputError
from labeler.store.base.store import Store

RANKED_AT_MOST = 20_000  # hits; of more, only the first ones found are ranked, and `complete` is false
# Hits that are fetched, looked up and sorted; with more, the rows in order are asked whether they are among the hits.
_FEW = {"sqlite": 3_000, "postgresql": 10_000}
_PERSON = 1 << 31
_TERM = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))')


@dataclass(frozen=True)
class Hit:
    label_set_id: int
    feature_index: int
    rank: float  # the higher, the closer the match; of one search only, and not comparable between databases
    by_person: bool = False  # the search found the label that a person wrote

    @property
    def position(self) -> tuple[float, int, int, int]:
        return self.rank, self.label_set_id, self.feature_index, int(self.by_person)


@dataclass(frozen=True)
class Hits:
    hits: tuple[Hit, ...]
    n_hits: int  # hits of the search, at most RANKED_AT_MOST
    complete: bool  # False: more hits exist than were ranked


def search_labels(
    store: Store, words: str, label_sets: Sequence[int], limit: int, after: tuple[float, int, int, int] | None = None
) -> Hits:
    """Find the best hits in these label sets, from the position of a hit on. Raises InputError."""
    with store.database.reading() as connection:
        found, values = _hits(connection, label_sets)
        values |= {"query": _query(connection, words), "most": RANKED_AT_MOST + 1, "limit": limit}
        place, order = "TRUE", ("label_set_id", "feature_index", "by_person")
        if after is not None:
            place = f"(-rank, {', '.join(order)}) > (-:rank, :label_set_id, :feature_index, :by_person)"
            values |= dict(zip(("rank", *order), after, strict=True))
        statement = sql(
            f"WITH hits AS ({found}) SELECT label_set_id, feature_index, rank, by_person, "
            f"(SELECT count(*) FROM hits) AS n FROM hits WHERE {place} ORDER BY rank DESC, {', '.join(order)} LIMIT :limit"
        )
        rows = connection.execute(statement, values).all()
    n = rows[0].n if rows else 0
    hits = tuple(Hit(r.label_set_id, r.feature_index, float(r.rank), bool(r.by_person)) for r in rows)
    return Hits(hits, min(n, RANKED_AT_MOST), n <= RANKED_AT_MOST)


def _hits(connection: Connection, label_sets: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Write the query for hits of :query in these label sets, at most :most, with the values it needs."""
    if connection.dialect.name == "postgresql":
        return (
            "SELECT label_set_id, feature_index, by_person::integer AS by_person, ts_rank(document, q)::float8 AS rank "
            "FROM (SELECT * FROM label_search, websearch_to_tsquery('english', :query) q WHERE document @@ q "
            "AND label_set_id = ANY(CAST(:sets AS integer[])) LIMIT :most) AS found"
        ), {"sets": list(label_sets)}
    # The index can use the range; for a single label set, the range is the whole condition.
    values: dict[str, Any] = {
        "low": min(label_sets, default=0) << 32,
        "high": (max(label_sets, default=0) + 1 << 32) - 1,
    }
    inside = "rowid BETWEEN :low AND :high"
    if len(label_sets) != 1:
        inside += " AND rowid >> 32 IN (SELECT value FROM json_each(:sets))"
        values["sets"] = json.dumps(list(label_sets))
    return (
        f"SELECT rowid >> 32 AS label_set_id, rowid & {_PERSON - 1} AS feature_index, (rowid & {_PERSON}) <> 0 AS by_person, "
        f"-bm25(label_search) AS rank FROM label_search WHERE label_search MATCH :query AND {inside} LIMIT :most"
    ), values


def index_person_label(connection: Connection, label_set_id: int, feature_index: int, text: str) -> None:
    """Add the label that a person wrote to the search, beside the feature's other label."""
    values: dict[str, Any] = {"words": text}
    if connection.dialect.name == "postgresql":
        statements = [
            "INSERT INTO label_search (label_set_id, feature_index, by_person, document) VALUES (:label_set_id, "
            ":feature_index, true, to_tsvector('english', :words)) ON CONFLICT (label_set_id, feature_index, by_person) "
            "DO UPDATE SET document = excluded.document"
        ]
        values |= {"label_set_id": label_set_id, "feature_index": feature_index}
    else:
        statements = [
            "DELETE FROM label_search WHERE rowid = :id",
            "INSERT INTO label_search(rowid, label) VALUES (:id, :words)",
        ]
        values["id"] = _row_of_person(label_set_id, feature_index)
    for statement in statements:
        named = {name: value for name, value in values.items() if f":{name}" in statement}
        connection.execute(sql(statement), named)


def forget_person_label(connection: Connection, label_set_id: int, feature_index: int) -> None:
    """Remove a withdrawn label of a person from the search."""
    if connection.dialect.name == "postgresql":
        statement = "DELETE FROM label_search WHERE label_set_id = :label_set_id AND feature_index = :feature_index AND by_person"
        values = {"label_set_id": label_set_id, "feature_index": feature_index}
    else:
        statement, values = (
            "DELETE FROM label_search WHERE rowid = :id",
            {"id": _row_of_person(label_set_id, feature_index)},
        )
    connection.execute(sql(statement), values)


def _row_of_person(label_set_id: int, feature_index: int) -> int:
    return (label_set_id << 32) + _PERSON + feature_index


def few_or_matching(connection: Connection, set_id: int, words: str) -> list[int] | Any:
    """Return the features of a label set whose labels have these words.

    Where there are many, return the condition on a row of `result` instead.
    """
    query = _query(connection, words)
    if connection.dialect.name == "postgresql":
        hits = (
            "SELECT feature_index FROM label_search WHERE document @@ websearch_to_tsquery('english', :words) "
            "AND label_set_id = :set_id AND NOT by_person"
        )
        row = "result.feature_index"
        values: dict[str, Any] = {"words": query, "set_id": set_id}
    else:
        hits = "SELECT rowid - :low FROM label_search WHERE label_search MATCH :words AND rowid BETWEEN :low AND :high"
        # The plus: the rows are walked in their order, and looked up among the hits, not the other way round.
        row = "+result.feature_index"
        values = {"words": query, "low": set_id << 32, "high": (set_id << 32) + _PERSON - 1}
    most = _FEW[connection.dialect.name]
    if connection.dialect.name == "postgresql" and _expected(connection, hits, values) > most:
        return sql(f"{row} IN ({hits})").bindparams(**values)
    found = list(connection.execute(sql(f"{hits} LIMIT {most + 1}"), values).scalars())
    return found if len(found) <= most else sql(f"{row} IN ({hits})").bindparams(**values)


def _expected(connection: Connection, hits: str, values: dict[str, Any]) -> float:
    """Return PostgreSQL's estimate of the number of hits: it would visit each of them to count them."""
    plan = connection.execute(sql(f"EXPLAIN (FORMAT JSON) {hits}"), values).scalar_one()
    return float(plan[0]["Plan"]["Plan Rows"])


def _query(connection: Connection, words: str) -> str:
    """Write the search in the language of this database. Raises InputError where no word to search for is left."""
    terms = [(is_wanted, f'"{term}"') for is_wanted, term in terms_of(words) if _is_word(term)]
    wanted = [term for is_wanted, term in terms if is_wanted]
    unwanted = [term for is_wanted, term in terms if not is_wanted]
    if not wanted or "\x00" in words:
        raise InputError(f'search {words!r}: expected a word to look for, such as: year "end of line" -python')
    if connection.dialect.name == "postgresql":
        return " ".join([*wanted, *(f"-{term}" for term in unwanted)])
    return f"({' AND '.join(wanted)})" + "".join(f" NOT {term}" for term in unwanted)


def terms_of(words: str) -> list[tuple[bool, str]]:
    """Return the words and phrases of a search in their order: (True for a wanted one, the term)."""
    return [(not minus, phrase or word) for minus, phrase, word in _TERM.findall(words)]


def _is_word(term: str) -> bool:
    return any(c.isalnum() for c in term)
