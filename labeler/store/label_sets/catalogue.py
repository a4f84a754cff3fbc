"""Lists of SAEs, evidence and label sets, as the service shows them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, select

from labeler.errors import InputError, NotFoundError
from labeler.store.base.store import NAMED, Store, named
from labeler.store.tables.imported import NO_FOLDER
from labeler.store.tables.label_sets import EVIDENCE, LABEL_SETS, RESULTS, SAES

_SHORTEST_HASH = 8


@dataclass(frozen=True)
class SaeInfo:
    """An SAE in a list; `subject` and `sae` are names, not paths of this machine."""

    id: int
    subject: str
    revision: str
    hookpoint: str
    sae: str
    format: str
    architecture: str
    sha256: str
    n_features: int
    d_in: int | None

    @property
    def name(self) -> str:
        return f"{self.subject} / {self.sae}"

    @property
    def path(self) -> str:
        """The SAE's name, under the word that earlier versions used for its path."""
        return self.sae


@dataclass(frozen=True)
class EvidenceInfo:
    id: int
    hash: str
    sae_id: int
    path: str
    created_at: datetime


@dataclass(frozen=True)
class SetInfo:
    """A label set in a list."""

    id: int
    sae_id: int
    evidence_id: int
    subject: str
    sae: str
    hookpoint: str
    n_features: int
    explainer: str
    simulator: str
    recipe_hash: str
    created_at: datetime

    @property
    def name(self) -> str:
        return f"{self.subject} / {self.sae}"


def list_saes(store: Store, after: int, limit: int) -> list[SaeInfo]:
    return [
        SaeInfo(**named(row))
        for row in _rows(store, select(SAES).where(SAES.c.id > after).order_by(SAES.c.id).limit(limit))
    ]


def newest_saes(store: Store, limit: int, also: Collection[int] = ()) -> list[SaeInfo]:
    """List SAEs, the newest first; those of `also` are always included."""
    return [SaeInfo(**named(row)) for row in _newest(store, select(SAES), SAES.c.id, limit, also)]


def find_sae(store: Store, reference: str) -> SaeInfo:
    """Find the SAE with this id, or whose weights have this SHA-256 (8 or more characters of it).

    Raises NotFoundError, and InputError where several SAEs fit.
    """
    if reference.isascii() and reference.isdecimal() and len(reference) <= 9:
        where = SAES.c.id == int(reference)
    elif len(reference) >= _SHORTEST_HASH and all(c in "0123456789abcdef" for c in reference):
        where = SAES.c.sha256.startswith(reference)
    else:
        raise InputError(
            f"SAE {reference[:80]!r}: expected its id, or 8 or more characters of the SHA-256 of its weights"
        )
    found = [SaeInfo(**named(row)) for row in _rows(store, select(SAES).where(where).limit(2))]
    if not found:
        raise NotFoundError(f"SAE {reference}: there is none here; GET /v1/saes lists those there are")
    if len(found) > 1:
        raise InputError(f"SAE {reference}: several fit, such as {found[0].id} and {found[1].id}; give the id")
    return found[0]


def places_of_saes(store: Store) -> Sequence[Any]:
    """Return id, subject, hookpoint, path, sha256 and n_features of all SAEs, the newest first."""
    columns = (SAES.c.id, SAES.c.subject, SAES.c.hookpoint, SAES.c.path, SAES.c.sha256, SAES.c.n_features)
    with store.database.reading() as connection:
        return connection.execute(select(*columns).order_by(SAES.c.id.desc())).all()


def manifests_of_saes(store: Store) -> dict[int, dict[str, Any]]:
    """Return the manifest of each SAE's newest evidence, by the SAE's id; only of SAEs that have label sets."""
    labeled = select(LABEL_SETS.c.evidence_id)
    query = select(EVIDENCE.c.sae_id, EVIDENCE.c.manifest).where(EVIDENCE.c.id.in_(labeled)).order_by(EVIDENCE.c.id)
    return {row["sae_id"]: row["manifest"] for row in _rows(store, query)}


def list_evidence(store: Store, sae: int | None, after: int, limit: int) -> list[EvidenceInfo]:
    columns = [EVIDENCE.c[name] for name in EvidenceInfo.__dataclass_fields__]
    query = select(*columns).where(EVIDENCE.c.id > after).order_by(EVIDENCE.c.id).limit(limit)
    if sae is not None:
        query = query.where(EVIDENCE.c.sae_id == sae)
    return [EvidenceInfo(**row) for row in _rows(store, query)]


def newest_gathered(store: Store, limit: int, also: Collection[int] = ()) -> list[tuple[EvidenceInfo, SaeInfo]]:
    """List the evidence that was gathered here with its SAE, the newest first; that of `also` is always included."""
    here = select(*(EVIDENCE.c[name] for name in EvidenceInfo.__dataclass_fields__)).where(
        ~EVIDENCE.c.path.startswith(NO_FOLDER)
    )
    found = [EvidenceInfo(**row) for row in _newest(store, here, EVIDENCE.c.id, limit, also)]
    of = select(SAES).where(SAES.c.id.in_({evidence.sae_id for evidence in found}))
    saes = {row["id"]: SaeInfo(**named(row)) for row in _rows(store, of)}
    return [(evidence, saes[evidence.sae_id]) for evidence in found]


def find_evidence(store: Store, reference: str) -> EvidenceInfo:
    """Find the evidence with this id or this hash. Raises NotFoundError."""
    by_id = reference.isascii() and reference.isdecimal() and len(reference) <= 9
    where = EVIDENCE.c.id == int(reference) if by_id else EVIDENCE.c.hash == reference
    columns = [EVIDENCE.c[name] for name in EvidenceInfo.__dataclass_fields__]
    found = _rows(store, select(*columns).where(where))
    if not found:
        raise NotFoundError(f"evidence {reference[:80]}: there is none here; GET /v1/evidence lists what there is")
    return EvidenceInfo(**found[0])


def newest_evidence(store: Store, sae: int) -> EvidenceInfo:
    """Return the SAE's newest evidence. Raises NotFoundError where none was gathered here."""
    columns = [EVIDENCE.c[name] for name in EvidenceInfo.__dataclass_fields__]
    here = (EVIDENCE.c.sae_id == sae) & ~EVIDENCE.c.path.startswith(NO_FOLDER)
    found = _rows(store, select(*columns).where(here).order_by(EVIDENCE.c.id.desc()).limit(1))
    if not found:
        raise NotFoundError(f"SAE {sae}: nothing was gathered of it")
    return EvidenceInfo(**found[0])


def list_sets(store: Store, sae: int | None, after: int, limit: int) -> list[SetInfo]:
    query = _sets().where(LABEL_SETS.c.id > after).order_by(LABEL_SETS.c.id).limit(limit)
    if sae is not None:
        query = query.where(EVIDENCE.c.sae_id == sae)
    return [SetInfo(**named(row)) for row in _rows(store, query)]


def newest_sets(store: Store, sae: int | None, limit: int, also: Collection[int] = ()) -> list[SetInfo]:
    """List label sets, the newest first; those of `also` are included where they belong to this SAE."""
    query = _sets() if sae is None else _sets().where(EVIDENCE.c.sae_id == sae)
    return [SetInfo(**named(row)) for row in _newest(store, query, LABEL_SETS.c.id, limit, also)]


def find_set(store: Store, label_set_id: int) -> SetInfo:
    found = _rows(store, _sets().where(LABEL_SETS.c.id == label_set_id))
    if not found:
        raise NotFoundError(f"label set {label_set_id}: there is none here; GET /v1/sets lists those there are")
    return SetInfo(**named(found[0]))


def _sets() -> Any:
    return (
        select(
            LABEL_SETS.c.id,
            EVIDENCE.c.sae_id,
            LABEL_SETS.c.evidence_id,
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


def sets_of(store: Store, sae: int | None) -> Sequence[int]:
    """List the ids of an SAE's label sets, or of all label sets, oldest first."""
    query = select(LABEL_SETS.c.id).join(EVIDENCE, LABEL_SETS.c.evidence_id == EVIDENCE.c.id).order_by(LABEL_SETS.c.id)
    if sae is not None:
        query = query.where(EVIDENCE.c.sae_id == sae)
    with store.database.reading() as connection:
        return connection.execute(query).scalars().all()


def end_of_part(store: Store, label_set_id: int, after: int, limit: int) -> int | None:
    """Return the last of the `limit` features with results after feature `after`; None where no result follows it."""
    query = select(RESULTS.c.feature_index).where(
        RESULTS.c.label_set_id == label_set_id, RESULTS.c.feature_index > after
    )
    with store.database.reading() as connection:
        last_two = (
            connection.execute(query.order_by(RESULTS.c.feature_index).offset(limit - 1).limit(2)).scalars().all()
        )
    return last_two[0] if len(last_two) == 2 else None


def _newest(store: Store, query: Any, key: Any, limit: int, also: Collection[int]) -> list[dict[str, Any]]:
    named_first = case((key.in_(also), 0), else_=1)
    rows = _rows(store, query.order_by(named_first, key.desc()).limit(limit))
    return sorted(rows, key=lambda row: -row["id"])


def _rows(store: Store, query: Any) -> list[dict[str, Any]]:
    with store.database.reading() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]
