"""Values put aside on disk while a tree is read, since there may be millions."""

from __future__ import annotations

import json
import sqlite3
from types import TracebackType

from labeler.records import Score


class Spool:
    """Scores by explanation, and counts of keys, in a database without a name: SQLite removes its file by itself."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA cache_size = -16384;"
            "CREATE TABLE score (id INTEGER PRIMARY KEY, explanation TEXT NOT NULL, who TEXT NOT NULL, score TEXT NOT NULL);"
            "CREATE INDEX of_explanation ON score (explanation);"
            "CREATE TABLE key (name TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;"
            "BEGIN"
        )

    def add(self, explanation: str, who: str, score: Score) -> None:
        values = (_storable(explanation), _storable(who), json.dumps(vars(score)))
        self._database.execute("INSERT INTO score (explanation, who, score) VALUES (?, ?, ?)", values)

    def take(self, explanation: str) -> list[tuple[str, Score]]:
        """Return and remove the scores of an explanation, as (who scored, the score), in the order in which they came."""
        key = (_storable(explanation),)
        found = self._database.execute("SELECT who, score FROM score WHERE explanation = ? ORDER BY id", key).fetchall()
        self._database.execute("DELETE FROM score WHERE explanation = ?", key)
        return [(json.loads(who), Score(**json.loads(score))) for who, score in found]

    def left(self) -> str | None:
        """Return the first explanation whose scores were not taken."""
        row = self._database.execute("SELECT explanation FROM score ORDER BY id LIMIT 1").fetchone()
        return None if row is None else str(json.loads(row[0]))

    def count(self, *key: str | int | None) -> int:
        """Count this key, and return how often it has come before."""
        again = "ON CONFLICT (name) DO UPDATE SET n = n + 1"
        row = self._database.execute(
            f"INSERT INTO key VALUES (?, 0) {again} RETURNING n", (json.dumps(key),)
        ).fetchone()
        return int(row[0])

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()


def _storable(text: str) -> str:
    return json.dumps(text)  # any text, also half of a surrogate pair, which SQLite does not accept
