"""Search by meaning: find the labels whose embeddings lie nearest to that of a query.

    texts_to_embed ──► keep_embeddings (once by model and text) ──► place_part: their signs, beside the columns of the part
    nearest_labels: the signs of all labels ──► the nearest NEAREST by Hamming distance ──► by cosine

A sign takes one bit per dimension. So a search over a million labels of 384 dimensions reads 48 MB, a piece at a time,
and keeps nothing in memory between searches (binary first pass and rescoring: Yamada et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from sqlalchemy import Connection, and_, func, select

from labeler.errors import MismatchError
from labeler.store.base.columns import FIGURES, PART, bring_up_to_date, lock_set, text_hash
from labeler.store.base.database import fetch_plain, insert_into
from labeler.store.base.store import Store
from labeler.store.label_sets.queries import among
from labeler.store.label_sets.search import Hit, Hits
from labeler.store.tables.columns import CHANGES, COLUMNS
from labeler.store.tables.embeddings import EMBEDDINGS, SIGNS
from labeler.store.tables.label_sets import RESULTS

NEAREST = 1000  # labels that are ranked by cosine, and so can be found
_PARTS_AT_ONCE = 64
_INCOMPLETE = -1
_CANDIDATE = np.dtype([("distance", np.int32), ("label_set", np.int32), ("part", np.int32), ("text", np.uint64)])


def parts_to_embed(store: Store, label_set_id: int, model: str) -> list[int]:
    """List the parts with a label that has no embedding, and those that changed after they were embedded."""
    bring_up_to_date(store.database, label_set_id)
    with store.database.reading() as connection:
        return [part for _, part in _unplaced(connection, [label_set_id], model)]


def texts_to_embed(store: Store, label_set_id: int, part: int, model: str) -> list[str]:
    """List the labels of a part that have no embedding of this model yet, each text once, in order."""
    query = (
        select(RESULTS.c.label)
        .distinct()
        .where(
            RESULTS.c.label_set_id == label_set_id,
            RESULTS.c.feature_index.between(part * PART, (part + 1) * PART - 1),
            RESULTS.c.label.is_not(None),
        )
    )
    with store.database.reading() as connection:
        texts = {_signed(text_hash(label)): label for label in connection.execute(query).scalars()}
        known = select(EMBEDDINGS.c.text_hash).where(
            EMBEDDINGS.c.model == model, among(connection, EMBEDDINGS.c.text_hash, list(texts))
        )
        for kept in connection.execute(known).scalars():
            del texts[kept]
    return sorted(texts.values())


def keep_embeddings(store: Store, model: str, texts: Sequence[str], vectors: np.ndarray) -> None:
    """Keep the vectors (len(texts), n_dimensions) of these texts; a text that already has one keeps the old one."""
    rows = [
        {"model": model, "text_hash": _signed(text_hash(text)), "content": vector.tobytes()}
        for text, vector in zip(texts, _quantised(vectors), strict=True)
    ]
    with store.database.writing() as connection:
        connection.execute(insert_into(EMBEDDINGS, store.database.dialect).on_conflict_do_nothing(), rows)


def place_part(store: Store, label_set_id: int, part: int, model: str) -> None:
    """Compute the signs of a part again from the embeddings that exist."""
    with store.database.writing() as connection:
        lock_set(connection, label_set_id)
        here = (COLUMNS.c.label_set_id == label_set_id) & (COLUMNS.c.part == part)
        column = select(COLUMNS.c.version, COLUMNS.c.content).where(here, COLUMNS.c.name == "label")
        version, content = connection.execute(column).one()
        hashes = np.unique(np.frombuffer(content, np.uint64))
        hashes = hashes[hashes > 0]
        found, vectors = _embeddings(connection, model, hashes)
        connection.execute(
            SIGNS.delete().where(SIGNS.c.label_set_id == label_set_id, SIGNS.c.part == part, SIGNS.c.model == model)
        )
        connection.execute(
            SIGNS.insert().values(
                label_set_id=label_set_id,
                part=part,
                model=model,
                version=version if len(found) == len(hashes) else _INCOMPLETE,
                text_hashes=found.tobytes(),
                signs=_signs(vectors).tobytes(),
            )
        )


def nearest_labels(
    store: Store,
    model: str,
    vector: np.ndarray,
    label_sets: Sequence[int],
    limit: int,
    after: tuple[float, int, int, int] | None = None,
) -> Hits:
    """Find the labels nearest to a vector (n_dimensions,) by cosine, from the position of a hit on.

    `n_hits` is at most NEAREST; `complete` says whether all labels of these label sets have an embedding. Raises
    MismatchError where theirs have another number of dimensions.
    """
    with store.database.reading() as connection:
        placed = _placed(connection, model, label_sets)
    for label_set in placed:
        bring_up_to_date(store.database, label_set)
    with store.database.reading() as connection:
        complete = not _unplaced(connection, label_sets, model) and not _changed(connection, label_sets)
        nearest, signs = np.empty(0, _CANDIDATE), _signs(vector[None, :])[0]
        for label_set, parts in placed.items():
            for i in range(0, len(parts), _PARTS_AT_ONCE):
                compared = _compared(connection, model, signs, label_set, parts[i : i + _PARTS_AT_ONCE])
                nearest = _nearest(np.concatenate([nearest, compared]))
        hits = _ranked(connection, model, vector, nearest)
    behind = [h for h in hits if after is None or (-h.rank, *h.position[1:]) > (-after[0], *after[1:])]
    return Hits(tuple(behind[:limit]), len(hits), complete)


def _placed(connection: Connection, model: str, label_sets: Sequence[int]) -> dict[int, list[int]]:
    """Return the parts that have signs, by label set."""
    query = select(SIGNS.c.label_set_id, SIGNS.c.part).where(
        SIGNS.c.model == model, among(connection, SIGNS.c.label_set_id, list(label_sets))
    )
    placed: dict[int, list[int]] = {}
    for label_set, part in connection.execute(query.order_by(SIGNS.c.label_set_id, SIGNS.c.part)):
        placed.setdefault(label_set, []).append(part)
    return placed


def _unplaced(connection: Connection, label_sets: Sequence[int], model: str) -> list[tuple[int, int]]:
    """List (label set, part) without signs, or with signs that are out of date."""
    same = and_(SIGNS.c.label_set_id == COLUMNS.c.label_set_id, SIGNS.c.part == COLUMNS.c.part, SIGNS.c.model == model)
    query = (
        select(COLUMNS.c.label_set_id, COLUMNS.c.part)
        .join(SIGNS, same, isouter=True)
        .where(
            COLUMNS.c.name == FIGURES,
            among(connection, COLUMNS.c.label_set_id, list(label_sets)),
            func.coalesce(SIGNS.c.version, _INCOMPLETE) != COLUMNS.c.version,
        )
        .order_by(COLUMNS.c.label_set_id, COLUMNS.c.part)
    )
    return [(label_set, part) for label_set, part in connection.execute(query)]


def _changed(connection: Connection, label_sets: Sequence[int]) -> bool:
    """Return True where any of these label sets has results that its columns lack."""
    query = select(CHANGES.c.part).where(among(connection, CHANGES.c.label_set_id, list(label_sets))).limit(1)
    return connection.execute(query).first() is not None


def _compared(
    connection: Connection, model: str, signs: np.ndarray, label_set: int, parts: Sequence[int]
) -> np.ndarray:
    """Return the texts of these parts that may be among the nearest ones."""
    query = select(SIGNS.c.part, SIGNS.c.text_hashes, SIGNS.c.signs).where(
        SIGNS.c.label_set_id == label_set, SIGNS.c.model == model, SIGNS.c.part.between(parts[0], parts[-1])
    )
    compared = [np.empty(0, _CANDIDATE)]
    for part, hashes, content in fetch_plain(connection, query):
        if not hashes:
            continue
        found = np.zeros(len(hashes) // 8, _CANDIDATE)
        others = np.frombuffer(content, np.uint64).reshape(len(found), -1)
        _check_dimensions(model, others.shape[1], len(signs))
        found["text"], found["label_set"], found["part"] = np.frombuffer(hashes, np.uint64), label_set, part
        found["distance"] = np.bitwise_count(others ^ signs).sum(axis=1, dtype=np.int32)
        compared.append(found)
    return np.concatenate(compared)


def _nearest(found: np.ndarray) -> np.ndarray:
    if len(found) > NEAREST:
        distance = found["distance"]
        found = found[distance <= np.partition(distance, NEAREST - 1)[NEAREST - 1]]
    return found[np.lexsort([found[name] for name in ("text", "part", "label_set", "distance")])[:NEAREST]]


def _ranked(connection: Connection, model: str, vector: np.ndarray, nearest: np.ndarray) -> list[Hit]:
    """Rank the features that have these texts as labels by cosine; NEAREST at most."""
    texts, vectors = _embeddings(connection, model, np.unique(nearest["text"]))
    if not len(texts):
        return []
    _check_dimensions(model, vectors.shape[1], len(vector))
    # Rounded, so that the pages of a query that was embedded twice keep one order.
    cosines = dict(zip(texts.tolist(), np.round(_cosines(vectors, vector), 5).tolist(), strict=True))
    hits = [
        Hit(label_set, feature, cosines[text])
        for label_set in np.unique(nearest["label_set"]).tolist()
        for feature, text in _features(connection, nearest[nearest["label_set"] == label_set])
    ]
    return sorted(hits, key=lambda hit: (-hit.rank, *hit.position[1:]))[:NEAREST]


def _features(connection: Connection, nearest: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (feature, text) of one label set for texts that are among the nearest in its part."""
    parts = np.unique(nearest["part"]).tolist()
    for i in range(0, len(parts), _PARTS_AT_ONCE):
        query = select(COLUMNS.c.part, COLUMNS.c.name, COLUMNS.c.content).where(
            COLUMNS.c.label_set_id == int(nearest["label_set"][0]),
            among(connection, COLUMNS.c.part, parts[i : i + _PARTS_AT_ONCE]),
            COLUMNS.c.name.in_(["label", "feature_index"]),
        )
        contents = {(part, name): content for part, name, content in fetch_plain(connection, query)}
        for part in parts[i : i + _PARTS_AT_ONCE]:
            labels = np.frombuffer(contents[part, "label"], np.uint64)
            rows = np.flatnonzero(np.isin(labels, nearest["text"][nearest["part"] == part]))
            features = np.frombuffer(contents[part, "feature_index"], np.int32)
            yield from zip(features[rows].tolist(), labels[rows].tolist(), strict=True)


def _embeddings(connection: Connection, model: str, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return those of these texts that have embeddings, by hash: hashes (n,), and int8 (n, n_dimensions)."""
    query = select(EMBEDDINGS.c.text_hash, EMBEDDINGS.c.content).where(
        EMBEDDINGS.c.model == model, among(connection, EMBEDDINGS.c.text_hash, hashes.view(np.int64).tolist())
    )
    found = sorted((text % 2**64, content) for text, content in fetch_plain(connection, query))
    if len({len(content) for _, content in found}) > 1:
        raise MismatchError(
            f"model {model!r} has given embeddings of several lengths: it is not one model; give the newer one another name"
        )
    width = len(found[0][1]) if found else 0
    vectors = np.frombuffer(b"".join(content for _, content in found), np.int8).reshape(len(found), width)
    return np.array([text for text, _ in found], np.uint64), vectors


def _quantised(vectors: np.ndarray) -> np.ndarray:
    """Scale each vector to int8 with its largest component at 127: lengths do not matter to a cosine."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    return np.asarray(np.rint(scaled * 127), dtype=np.int8)


def _signs(vectors: np.ndarray) -> np.ndarray:
    """Pack one bit for each component above 0: uint64 (n, n_dimensions / 64, rounded up)."""
    bits = np.packbits(vectors > 0, axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def _cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosine of each of (n, d) int8 with a vector (d,); 0 for a vector of length 0."""
    others = vectors.astype(np.float64)
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(query)
    return np.asarray(np.divide(others @ query, lengths, out=np.zeros(len(others)), where=lengths > 0))


def _check_dimensions(model: str, kept: int, asked: int) -> None:
    if kept != asked:
        raise MismatchError(
            f"the embeddings that are kept for {model!r} have another number of dimensions than those that the endpoint gives "
            "now: it serves another model under this name"
        )


def _signed(text: int) -> int:
    """Return a hash as a signed number, which is how databases keep it."""
    return text - 2**64 if text >= 2**63 else text
