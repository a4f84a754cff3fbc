"""Full text over labels: FTS5 in SQLite, tsvector in PostgreSQL, the same small language in both.

    red "blue sky" -green        with `red` and the phrase, without `green`; words are stemmed as English

Triggers keep the index (migration 0004): a label that is saved is found at once. In SQLite a row's id is
label_set_id * 2^32 + feature_index, so that one range of ids is one label set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from labeler.errors import InputError
from labeler.store.store import Store

RANKED_AT_MOST = 30_000  # hits; of more, the first ones found are ranked, and `complete` is false
_FEW = 20_000  # hits that are fetched and sorted; with more, the rows in order are asked one by one whether they match
_TERM = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))')


@dataclass(frozen=True)
class Hit:
    label_set_id: int
    feature_index: int
    rank: float  # higher is better; of one search only, and not comparable between databases


@dataclass(frozen=True)
class Hits:
    hits: tuple[Hit, ...]
    n_hits: int  # of the search, at most RANKED_AT_MOST
    complete: bool  # False: there are more than were ranked


def search_labels(
    store: Store, words: str, label_sets: Sequence[int], limit: int, after: tuple[float, int, int] | None = None
) -> Hits:
    """The best hits in these label sets, those behind the position (rank, label set, feature). Raises InputError."""
    with store.database.reading() as connection:
        values = {"query": _query(connection, words), "most": RANKED_AT_MOST + 1, "limit": limit}
        place = "TRUE"
        if after is not None:
            place = "(-rank, label_set_id, feature_index) > (-:rank, :label_set_id, :feature_index)"
            values |= dict(zip(("rank", "label_set_id", "feature_index"), after, strict=True))
        statement = text(
            f"WITH hits AS ({_hits(connection, label_sets)}) SELECT label_set_id, feature_index, rank, "
            f"(SELECT count(*) FROM hits) AS n FROM hits WHERE {place} ORDER BY rank DESC, label_set_id, feature_index LIMIT :limit"
        )
        rows = connection.execute(statement, values).all()
    n = rows[0].n if rows else 0
    hits = tuple(Hit(r.label_set_id, r.feature_index, float(r.rank)) for r in rows)
    return Hits(hits, min(n, RANKED_AT_MOST), n <= RANKED_AT_MOST)


def _hits(connection: Connection, label_sets: Sequence[int]) -> str:
    ids = [int(i) for i in label_sets]
    if connection.dialect.name == "postgresql":
        return (
            "SELECT label_set_id, feature_index, ts_rank(document, q)::float8 AS rank FROM (SELECT * FROM label_search, "
            "websearch_to_tsquery('english', :query) q WHERE document @@ q "
            f"AND label_set_id = ANY(ARRAY{ids}::integer[]) LIMIT :most) AS found"
        )
    inside = " OR ".join(f"rowid BETWEEN {i << 32} AND {((i + 1) << 32) - 1}" for i in ids) or "FALSE"
    return (
        "SELECT rowid >> 32 AS label_set_id, rowid & 4294967295 AS feature_index, -bm25(label_search) AS rank "
        f"FROM label_search WHERE label_search MATCH :query AND ({inside}) LIMIT :most"
    )


def holds_text(connection: Connection, set_id: int, words: str) -> Any:
    """The condition that the label of a row of `result` matches, made so that it is cheap for rare and for common words."""
    from labeler.store.queries import among
    from labeler.store.tables import RESULTS

    values = {"words": _query(connection, words), "set_id": set_id, "low": set_id << 32, "most": _FEW + 1}
    if connection.dialect.name == "postgresql":
        match = "document @@ websearch_to_tsquery('english', :words)"
        listed = f"SELECT feature_index FROM label_search WHERE {match} AND label_set_id = :set_id LIMIT :most"
        probe = f"SELECT 1 FROM label_search s WHERE {match} AND s.label_set_id = result.label_set_id AND s.feature_index = result.feature_index"
    else:
        match = "label_search MATCH :words"
        listed = f"SELECT rowid - :low FROM label_search WHERE {match} AND rowid BETWEEN :low AND :low + 4294967295 LIMIT :most"
        probe = (
            f"SELECT 1 FROM label_search WHERE {match} AND rowid = (result.label_set_id << 32) + result.feature_index"
        )
    found = list(connection.execute(text(listed), values).scalars())
    if len(found) <= _FEW:
        return among(connection, RESULTS.c.feature_index, found)
    return text(f"EXISTS ({probe})").bindparams(words=values["words"])


def _query(connection: Connection, words: str) -> str:
    """The search as this database reads it. Raises InputError where it holds no word to look for."""
    terms = [(minus, phrase or word) for minus, phrase, word in _TERM.findall(words)]
    wanted = [term for minus, term in terms if not minus and _is_word(term)]
    if not wanted or "\x00" in words:
        raise InputError(f'search {words!r}: expected a word to look for, such as: year "end of line" -python')
    if connection.dialect.name == "postgresql":
        return words  # websearch_to_tsquery takes anything
    unwanted = [term for minus, term in terms if minus and _is_word(term)]
    query = " AND ".join(f'"{term}"' for term in wanted)
    return f"({query})" + "".join(f' NOT "{term}"' for term in unwanted)


def _is_word(term: str) -> bool:
    return any(c.isalnum() for c in term)
