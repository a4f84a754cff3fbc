"""The questions that the rest of the project may ask of the database.

Answers are frozen values; no session and no ORM object leaves this module.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Table, select

from labeler.errors import NotFoundError
from labeler.names import names_of, sae_name, subject_name
from labeler.places import spelled_hookpoint
from labeler.recipe import Recipe
from labeler.records import LabeledFeature, State, Usage
from labeler.store.base.columns import bring_up_to_date, mark
from labeler.store.base.database import Database, insert_into
from labeler.store.base.rows import row_of
from labeler.store.base.summary import LabelSetSummary, score_values, summarise
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS, SAES, now

_ROWS_AT_ONCE = 200  # of a result's 31 columns; SQLite binds at most 32,766 values in a statement


@dataclass(frozen=True)
class LabelSetInfo:
    """A label set, with the names of its subject, SAE and models."""

    id: int
    evidence_id: int
    evidence_hash: str
    evidence_path: str
    subject: str  # names for people, as is `sae`; not paths of this machine (labeler/names.py)
    hookpoint: str
    sae: str
    n_features: int
    explainer: str
    simulator: str
    recipe_hash: str
    created_at: datetime

    @property
    def name(self) -> str:
        """Return the subject and the SAE, such as `smollm2 / sae19`."""
        return f"{self.subject} / {self.sae}"


def open_store(url: str, *, patience: float = 0.0, migrate: bool = True, pooled: bool = False) -> Store:
    """Open the store at a file or URL; make and migrate it as necessary. Raises StorageError, FormatError or
    InputError.

    `patience` is how many seconds to wait for a server that restarts. `pooled` keeps SQLite's connections too, for a
    process that never forks.
    """
    database = Database(url, patience, pooled=pooled)
    if migrate:
        database.migrate()
    return Store(database)


class Store:
    """Label sets, their results, and the ledger of replies."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._writer = secrets.randbits(62)

    def close(self) -> None:
        self.database.close()

    def label_set_for(self, manifest: dict[str, Any], evidence_path: str, recipe: Recipe) -> LabelSetInfo:
        """Return the label set of this recipe on this evidence, made if it is new. Two processes get the same one."""
        names = (recipe.explainer.name, recipe.simulator.name)
        with self.database.writing() as connection:
            label_set_id = self.label_set_in(connection, manifest, evidence_path, recipe.to_dict(), names)
        return self.label_set(label_set_id)

    def label_set_in(
        self,
        connection: Connection,
        manifest: dict[str, Any],
        evidence_path: str,
        recipe: dict[str, Any],
        names: tuple[str, str],
        created_at: datetime | None = None,
    ) -> int:
        """Return the id for `label_set_for`, in the caller's transaction.

        `names` are the explainer's and the simulator's.
        """
        values = {
            "evidence_id": self._evidence_in(connection, manifest, evidence_path),
            "recipe_hash": recipe["hash"],
            "recipe": recipe,
            "explainer": names[0],
            "simulator": names[1],
            "created_at": created_at or now(),
        }
        return self._get_or_create(connection, LABEL_SETS, values, ("evidence_id", "recipe_hash"))

    def add_evidence(self, manifest: dict[str, Any], path: str) -> int:
        """Return the id of this evidence, added if it is new; `path` is its present place."""
        with self.database.writing() as connection:
            return self._evidence_in(connection, manifest, path)

    def evidence(self, evidence_id: int) -> tuple[dict[str, Any], str]:
        """Return the (manifest, path) of an evidence."""
        with self.database.reading() as connection:
            row = connection.execute(
                select(EVIDENCE.c.manifest, EVIDENCE.c.path).where(EVIDENCE.c.id == evidence_id)
            ).one_or_none()
        if row is None:
            raise NotFoundError(f"evidence {evidence_id}: there is none here")
        return dict(row.manifest), row.path

    def _evidence_in(self, connection: Connection, manifest: dict[str, Any], path: str) -> int:
        sae_id = self._sae_in(connection, manifest)
        evidence = {"hash": manifest["hash"], "sae_id": sae_id, "path": path, "manifest": manifest}
        evidence_id = self._get_or_create(connection, EVIDENCE, evidence, ("hash",))
        # The folder may have moved since.
        connection.execute(EVIDENCE.update().where(EVIDENCE.c.id == evidence_id).values(path=path))
        return evidence_id

    def _sae_in(self, connection: Connection, manifest: dict[str, Any]) -> int:
        """Return the SAE's id. An SAE with the same name under another path, as exports know it, is the same SAE."""
        values, keys = _sae_values(manifest), ("subject", "revision", "hookpoint", "sha256")
        same = [SAES.c[key] == values[key] for key in keys if key != "subject"]
        known = connection.execute(select(SAES).where(*same).order_by(SAES.c.id)).mappings().all()
        wanted = {values["subject"], names_of(manifest)["subject"]}
        alike = [row for row in known if wanted & {row["subject"], named(row)["subject"], subject_name(row["subject"])}]
        exact = [row for row in alike if row["subject"] == values["subject"]]
        if not alike:
            return self._get_or_create(connection, SAES, values, keys)
        sae_id = int((exact or alike)[0]["id"])
        given = {name: values[name] for name in ("subject_name", "name") if values[name] is not None}
        if given:  # the newest name wins
            connection.execute(SAES.update().where(SAES.c.id == sae_id).values(given))
        return sae_id

    def _get_or_create(
        self, connection: Connection, table: Table, values: dict[str, Any], keys: tuple[str, ...]
    ) -> int:
        connection.execute(
            self._insert(table).values(**_created(table) | values).on_conflict_do_nothing(index_elements=list(keys))
        )
        same = [table.c[key] == values[key] for key in keys]
        return int(connection.execute(select(table.c.id).where(*same)).scalar_one())

    def _insert(self, table: Table) -> Any:
        return insert_into(table, self.database.dialect)

    def label_sets(self) -> list[LabelSetInfo]:
        """List all label sets, oldest first."""
        with self.database.reading() as connection:
            return [LabelSetInfo(**named(r)) for r in connection.execute(_infos().order_by(LABEL_SETS.c.id)).mappings()]

    def label_set(self, label_set_id: int) -> LabelSetInfo:
        with self.database.reading() as connection:
            row = connection.execute(_infos().where(LABEL_SETS.c.id == label_set_id)).mappings().one_or_none()
        if row is None:
            raise NotFoundError(f"label set {label_set_id}: there is none here; `labeler sets` lists those there are")
        return LabelSetInfo(**named(row))

    def label_set_like(self, evidence_hash: str, recipe_hash: str) -> LabelSetInfo | None:
        """Return the label set of a recipe on evidence; None where it is not made yet."""
        this = (EVIDENCE.c.hash == evidence_hash) & (LABEL_SETS.c.recipe_hash == recipe_hash)
        with self.database.reading() as connection:
            row = connection.execute(_infos().where(this)).mappings().one_or_none()
        return None if row is None else LabelSetInfo(**named(row))

    def newest_label_set(self) -> LabelSetInfo:
        sets = self.label_sets()
        if not sets:
            raise NotFoundError(f"database {self.database.name} holds no label set; make one with `labeler label`")
        return sets[-1]

    def recipe_of(self, label_set_id: int) -> dict[str, Any]:
        return self._json_of(LABEL_SETS.c.recipe, LABEL_SETS.c.id == label_set_id, label_set_id)

    def manifest_of(self, label_set_id: int) -> dict[str, Any]:
        joined = (LABEL_SETS.c.id == label_set_id) & (LABEL_SETS.c.evidence_id == EVIDENCE.c.id)
        return self._json_of(EVIDENCE.c.manifest, joined, label_set_id)

    def _json_of(self, column: Any, where: Any, label_set_id: int) -> dict[str, Any]:
        with self.database.reading() as connection:
            value = connection.execute(select(column).where(where)).scalar_one_or_none()
        if value is None:
            self.label_set(label_set_id)  # raises
        return dict(value or {})

    def finished(self, label_set_id: int, low: int, high: int, *, retry_failed: bool = True) -> set[int]:
        """Return the features in [low, high) that need no work; failed ones do, except without `retry_failed`."""
        wanted = (RESULTS.c.label_set_id == label_set_id) & RESULTS.c.feature_index.between(low, high - 1)
        if retry_failed:
            wanted &= RESULTS.c.state != State.FAILED
        with self.database.reading() as connection:
            return set(connection.execute(select(RESULTS.c.feature_index).where(wanted)).scalars())

    def save(self, label_set_id: int, features: Sequence[LabeledFeature]) -> None:
        """Save results, all or none. A new result replaces an old one, but a failure replaces no result."""
        if not features:
            return
        with self.database.writing() as connection:
            self.save_in(connection, label_set_id, features)

    def save_in(self, connection: Connection, label_set_id: int, features: Sequence[LabeledFeature]) -> None:
        """Do as `save` does, within the caller's transaction."""
        self.save_rows_in(connection, label_set_id, [row_of(label_set_id, feature) for feature in features])

    def save_rows_in(self, connection: Connection, label_set_id: int, rows: Sequence[dict[str, Any]]) -> None:
        """Do as `save_in` does, for rows of the table `result`."""
        # In the order of features, as in every writer: two that meet wait for each other, and never deadlock.
        rows = sorted(rows, key=itemgetter("feature_index"))
        mark(connection, label_set_id, (row["feature_index"] for row in rows), self._writer)
        statement = self._insert(RESULTS)
        replaced = {c.name: statement.excluded[c.name] for c in RESULTS.c if not c.primary_key}
        # Another job of this recipe may have labeled a feature that failed here, and its result was paid for.
        is_better = (statement.excluded.state != State.FAILED) | (RESULTS.c.state == State.FAILED)
        upsert = statement.on_conflict_do_update(
            index_elements=["label_set_id", "feature_index"], set_=replaced, where=is_better
        )
        for low in range(0, len(rows), _ROWS_AT_ONCE):
            connection.execute(upsert, rows[low : low + _ROWS_AT_ONCE])

    def outcomes_in(
        self, connection: Connection, label_set_id: int, features: Sequence[int]
    ) -> dict[int, tuple[State, Usage]]:
        """Return the state and the usage of those of these features that have a result."""
        result = RESULTS.c
        query = select(
            result.feature_index, result.state, result.requests, result.tokens_in, result.tokens_out, result.cost_usd
        ).where(result.label_set_id == label_set_id, result.feature_index.in_(features))
        return {feature: (State(state), Usage(*cost)) for feature, state, *cost in connection.execute(query)}

    def rows(self, label_set_id: int, batch: int = 2000) -> Iterator[dict[str, Any]]:
        """Yield all results of a label set in the order of features, `batch` in memory at a time."""
        self.label_set(label_set_id)
        after = -1
        while True:
            page = select(RESULTS).where(RESULTS.c.label_set_id == label_set_id, RESULTS.c.feature_index > after)
            with self.database.reading() as connection:
                rows = connection.execute(page.order_by(RESULTS.c.feature_index).limit(batch)).mappings().all()
            if not rows:
                return
            yield from map(dict, rows)
            after = rows[-1]["feature_index"]

    def has_results(self, label_set_id: int) -> bool:
        """Return True if the label set has a result for any feature. Raises NotFoundError."""
        self.label_set(label_set_id)
        one = select(RESULTS.c.feature_index).where(RESULTS.c.label_set_id == label_set_id).limit(1)
        with self.database.reading() as connection:
            return connection.execute(one).first() is not None

    def row(self, label_set_id: int, feature_index: int) -> dict[str, Any] | None:
        one = select(RESULTS).where(RESULTS.c.label_set_id == label_set_id, RESULTS.c.feature_index == feature_index)
        with self.database.reading() as connection:
            row = connection.execute(one).mappings().one_or_none()
        return None if row is None else dict(row)

    def best(self, label_set_id: int, n: int) -> list[dict[str, Any]]:
        """Return the `n` results with the highest scores, leaving out labels without a score."""
        return self._ranked(label_set_id, n, RESULTS.c.score.desc())

    def worst(self, label_set_id: int, n: int) -> list[dict[str, Any]]:
        return self._ranked(label_set_id, n, RESULTS.c.score)

    def _ranked(self, label_set_id: int, n: int, order: Any) -> list[dict[str, Any]]:
        scored = select(RESULTS).where(RESULTS.c.label_set_id == label_set_id, RESULTS.c.score.is_not(None))
        with self.database.reading() as connection:
            rows = connection.execute(scored.order_by(order, RESULTS.c.feature_index).limit(n)).mappings().all()
        return [dict(row) for row in rows]

    def summary(self, label_set_id: int) -> LabelSetSummary:
        n_features = self.label_set(label_set_id).n_features
        return summarise(self.database, label_set_id, n_features)

    def count_changes(self, label_set_id: int) -> None:
        """Count again where results have changed, which `summary` would have to do first."""
        bring_up_to_date(self.database, label_set_id)

    def named_scores(self, label_set_id: int, name: str) -> tuple[list[float], dict[str, int]]:
        """Return the values of a score in the order of features, and the reasons of undefined ones, counted."""
        return score_values(self.database, label_set_id, name)


NAMED = [SAES.c.subject, SAES.c.subject_name, SAES.c.path, SAES.c.name]  # what `named` reads


def named(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row of SAEs with names for `subject` and `sae` in place of ids and local paths."""
    rest = {column: value for column, value in row.items() if column not in ("subject_name", "name", "path")}
    subject = row["subject_name"] or subject_name(row["subject"])
    return {**rest, "subject": subject, "sae": row["name"] or sae_name(row["path"])}


def _infos() -> Any:
    return (
        select(
            LABEL_SETS.c.id,
            LABEL_SETS.c.evidence_id,
            EVIDENCE.c.hash.label("evidence_hash"),
            EVIDENCE.c.path.label("evidence_path"),
            *NAMED,
            SAES.c.hookpoint,
            SAES.c.n_features,
            LABEL_SETS.c.explainer,
            LABEL_SETS.c.simulator,
            LABEL_SETS.c.recipe_hash,
            LABEL_SETS.c.created_at,
        )
        .join(EVIDENCE, LABEL_SETS.c.evidence_id == EVIDENCE.c.id)
        .join(SAES, EVIDENCE.c.sae_id == SAES.c.id)
    )


def _sae_values(manifest: dict[str, Any]) -> dict[str, Any]:
    subject, sae = manifest["subject"], manifest["sae"]
    hookpoint = spelled_hookpoint(manifest["hookpoint"], manifest["reads"])
    names = manifest.get("names") or {}
    return {
        "subject_name": names.get("subject"),
        "name": names.get("sae"),
        "subject": subject["id"],
        "revision": subject["revision"],
        "hookpoint": hookpoint,
        **{name: sae[name] for name in ("path", "format", "architecture", "sha256", "n_features", "d_in")},
    }


def _created(table: Table) -> dict[str, Any]:
    return {"created_at": now()} if "created_at" in table.c else {}
