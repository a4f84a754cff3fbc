"""The numbers of a label set by column, beside its rows. Counting and comparing a million features reads these columns.

    save ──► rows, and a mark on each part they are in ──► bring_up_to_date: marked parts again ──► read_columns

A part is a range of PART features. Each transaction that saves results also marks their parts. The transaction that
reads the parts again removes the marks. So the columns of a part without a mark agree with its rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import orjson
from sqlalchemy import Connection, Text, cast, exists, func, select

from labeler.records import State
from labeler.schema import MAIN, PARTS, Column, Use, score_columns
from labeler.store.base.database import Database, fetch_plain, insert_into
from labeler.store.tables.columns import CHANGES, COLUMNS
from labeler.store.tables.label_sets import LABEL_SETS, RESULTS
from labeler.store.tables.service import REVIEWS

PART = 4096
WHOLE = -1  # in place of a part: the whole label set
STATES = tuple(State)
FIGURES = "figures"
_KINDS: dict[str, Any] = {  # all other columns are float64, where NaN stands for undefined
    "feature_index": np.int32,
    "state": np.uint8,  # the position in STATES
    "label": np.uint64,  # a hash of the label's text; 0: none
}
_MAIN = tuple(c.name for c in score_columns(MAIN) if Use.FILTERED in c.use)
_READ = (
    "feature_index",
    "state",
    "label",
    "density",
    *_MAIN,
    "baseline_token_lookup",
    "requests",
    "tokens_in",
    "tokens_out",
    "cost_usd",
)
_NUMBERS = tuple(part for part in PARTS if part != "reason")
_STORED = cast(RESULTS.c.scores, Text)  # as text, which orjson reads faster than the driver would
_TIE = 1e-9


@dataclass(frozen=True)
class Columns:
    """The requested columns in the order of features: arrays of equal length, and the figures of each part."""

    arrays: Mapping[str, np.ndarray]
    figures: Sequence[Mapping[str, Any]]
    version: str  # the same for the same results

    def undefined(self, score: str) -> dict[str, int]:
        """Count the labels for which a score is undefined, by reason."""
        return dict(sum((Counter(f["scores"].get(score, {}).get("undefined")) for f in self.figures), Counter[str]()))


def mark(connection: Connection, label_set_id: int, features: Iterable[int], writer: int) -> None:
    """Mark the parts of these features: their results are about to change in this transaction."""
    # In order, as in every writer: two that meet wait for each other, and never deadlock.
    parts = sorted({feature // PART for feature in features})
    marks = [{"label_set_id": label_set_id, "part": part, "writer": writer, "n": 1} for part in parts]
    connection.execute(_marking(connection.dialect.name), marks)


@cache
def _marking(dialect: str) -> Any:
    # One statement, compiled once for any number of parts: each save of each worker runs it.
    insert = insert_into(CHANGES, dialect)
    keys = ["label_set_id", "part", "writer"]
    return insert.on_conflict_do_update(index_elements=keys, set_={"n": CHANGES.c.n + 1})


def changed_parts(connection: Connection, label_set_id: int) -> list[int]:
    query = select(CHANGES.c.part).where(CHANGES.c.label_set_id == label_set_id).distinct().order_by(CHANGES.c.part)
    return list(connection.execute(query).scalars())


def bring_up_to_date(database: Database, label_set_id: int) -> None:
    """Read the changed parts again, one transaction each, so that writers wait for one part at most."""
    with database.reading() as connection:
        parts = changed_parts(connection, label_set_id)
    for part in parts:
        with database.writing() as connection:
            _read_part(connection, label_set_id, part)


def lock_set(connection: Connection, label_set_id: int) -> None:
    """Lock the set while its columns are rebuilt.

    Otherwise a rebuild that read fewer rows could overwrite a newer one.
    """
    lock = select(LABEL_SETS.c.id).where(LABEL_SETS.c.id == label_set_id).with_for_update(key_share=True)
    connection.execute(lock).one()


def _read_part(connection: Connection, label_set_id: int, part: int) -> None:
    lock_set(connection, label_set_id)
    of_part = (CHANGES.c.label_set_id == label_set_id) & (CHANGES.c.part == part)
    # Read the marks before the rows: a result that is saved in between leaves a mark that is not among these.
    marks = connection.execute(select(CHANGES.c.writer, CHANGES.c.n).where(of_part)).all()
    if not marks:
        return
    here = (COLUMNS.c.label_set_id == label_set_id) & (COLUMNS.c.part == part)
    version = connection.execute(select(func.coalesce(func.max(COLUMNS.c.version), 0)).where(here)).scalar_one() + 1
    contents = _contents(_rows_of(connection, label_set_id, part))
    connection.execute(COLUMNS.delete().where(here))
    same = {"label_set_id": label_set_id, "part": part, "version": version}
    connection.execute(COLUMNS.insert(), [{**same, "name": n, "content": c} for n, c in contents.items()])
    for writer, n in marks:
        connection.execute(CHANGES.delete().where(of_part, CHANGES.c.writer == writer, CHANGES.c.n == n))


def _rows_of(connection: Connection, label_set_id: int, part: int) -> dict[str, tuple[Any, ...]]:
    query = select(*(RESULTS.c[name] for name in _READ), _STORED).where(
        RESULTS.c.label_set_id == label_set_id,
        RESULTS.c.feature_index.between(part * PART, (part + 1) * PART - 1),
    )
    rows = fetch_plain(connection, query.order_by(RESULTS.c.feature_index))
    names = (*_READ, "scores")
    return dict(zip(names, zip(*rows, strict=True) if rows else ((),) * len(names), strict=True))


def _contents(rows: Mapping[str, tuple[Any, ...]]) -> dict[str, bytes]:
    arrays = {
        name: np.array(rows[name], dtype=np.float64)
        for name in ("density", *_MAIN, "baseline_token_lookup", "cost_usd")
    }
    scores = StoredScores.of(rows["scores"])
    scored = ~np.isnan(arrays["score"])
    arrays["score_null_p"][~scored] = np.nan  # a chance means nothing without a score
    baseline, cost = arrays.pop("baseline_token_lookup"), arrays.pop("cost_usd")
    compared = scored & ~np.isnan(baseline)
    figures = {
        "states": Counter(rows["state"]),
        "score_sum": float(arrays["score"][scored].sum()),
        "n_compared": int(compared.sum()),
        "n_beating": int((arrays["score"][compared] > baseline[compared] + _TIE).sum()),
        **{name: sum(rows[name]) for name in ("requests", "tokens_in", "tokens_out")},
        "cost_usd": float(np.nansum(cost)),
        "n_unpriced": int(np.isnan(cost).sum()),
        "scores": scores.figures,
    }
    arrays |= scores.arrays
    places = {str(state): place for place, state in enumerate(STATES)}
    arrays["feature_index"] = np.array(rows["feature_index"], dtype=np.int32)
    arrays["state"] = np.array([places[state] for state in rows["state"]], dtype=np.uint8)
    arrays["label"] = np.array([text_hash(label) for label in rows["label"]], dtype=np.uint64)
    # A score that none of these features has takes no space.
    kept = {n: a.tobytes() for n, a in arrays.items() if a.dtype != np.float64 or not np.isnan(a).all()}
    why = {name: orjson.dumps(rows, option=orjson.OPT_NON_STR_KEYS) for name, rows in scores.reasons.items()}
    return {FIGURES: orjson.dumps(figures), **kept, **why}


@dataclass(frozen=True)
class StoredScores:
    """The stored scores of a part, by column and in the order of its rows, and what there is of each score."""

    arrays: dict[str, np.ndarray]
    reasons: dict[str, dict[int, str]]  # by column, by row: why there is no value
    figures: dict[str, dict[str, Any]]  # by score: the parts that any result has, and undefined ones by reason

    @classmethod
    def of(cls, stored: Sequence[str]) -> StoredScores:
        scores, rows = _parsed(stored)
        arrays: dict[str, np.ndarray] = {}
        reasons: dict[str, dict[int, str]] = {}
        figures: dict[str, dict[str, Any]] = {}
        names = scores.field("name").dictionary_encode()
        codes = names.indices.to_numpy(zero_copy_only=False)
        numbers = {part: scores.field(part).to_numpy(zero_copy_only=False) for part in _NUMBERS}
        texts = scores.field("reason").to_pylist()
        for code, name in enumerate(names.dictionary.to_pylist()):
            here = np.flatnonzero(codes == code)
            values = {part: array for part in _NUMBERS if not np.isnan(array := numbers[part][here]).all()}
            why = {int(rows[i]): texts[i] for i in here if texts[i] is not None}
            there = [*values, *(("reason",) if why else ())]
            figures[name] = {"parts": there, "undefined": Counter(why.values())}
            for column in score_columns(name):
                if column.part in values and name != MAIN:  # the main score stands on the rows
                    arrays[column.name] = np.full(len(stored), np.nan)
                    arrays[column.name][rows[here]] = values[column.part]
                elif column.part == "reason" and why and name != MAIN:
                    reasons[column.name] = why
        return cls(arrays, reasons, figures)


def _parsed(stored: Sequence[str]) -> tuple[Any, np.ndarray]:
    """Return the scores of all rows as one array of structs, and the row of each. Arrow reads them in half the time."""
    import pyarrow as pa
    from pyarrow import compute, json

    score = pa.struct([("name", pa.string()), ("reason", pa.string()), *((part, pa.float64()) for part in _NUMBERS)])
    lines = "".join(f'{{"scores":{text}}}\n' for text in stored).encode()
    if not lines:
        return pa.array([], score), np.empty(0, np.int64)
    parsing = json.ParseOptions(
        explicit_schema=pa.schema([("scores", pa.list_(score))]), unexpected_field_behavior="ignore"
    )
    reading = json.ReadOptions(block_size=max(1 << 20, 4 * max(map(len, stored)) + 64))  # a line must fit into a block
    lists = json.read_json(pa.BufferReader(lines), reading, parsing).column("scores").combine_chunks()
    return compute.list_flatten(lists), compute.list_parent_indices(lists).to_numpy()


def text_hash(label: str | None) -> int:
    """Hash a label to 64 bits; 0 for no label."""
    return 0 if label is None else int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "little")


def read_columns(connection: Connection, label_set_id: int, names: Sequence[str]) -> Columns:
    """Read these columns of all parts in one statement, so that they belong to the same moment."""
    query = select(COLUMNS.c.part, COLUMNS.c.name, COLUMNS.c.version, COLUMNS.c.content).where(
        COLUMNS.c.label_set_id == label_set_id, COLUMNS.c.part > WHOLE, COLUMNS.c.name.in_([FIGURES, *names])
    )
    parts: dict[int, dict[str, Any]] = {}
    versions: dict[int, int] = {}
    for part, name, version, content in fetch_plain(connection, query):
        parts.setdefault(part, {})[name] = content
        versions[part] = version
    in_order = [parts[part] for part in sorted(parts)]
    figures = [orjson.loads(contents[FIGURES]) for contents in in_order]
    sizes = [sum(f["states"].values()) for f in figures]
    arrays = {
        name: np.concatenate(
            [np.empty(0, _kind(name))]
            + [
                np.frombuffer(contents[name], _kind(name)) if name in contents else np.full(size, np.nan)
                for contents, size in zip(in_order, sizes, strict=True)
            ]
        )
        for name in names
    }
    return Columns(arrays, figures, _version(versions))


def _kind(name: str) -> Any:
    return _KINDS.get(name, np.float64)


def read_scores(
    connection: Connection, label_set_id: int, features: np.ndarray, columns: Sequence[Column]
) -> dict[str, np.ndarray | list[str | None]]:
    """Return these columns of scores for features in rising order, in a transaction that sees one moment.

    Numbers are arrays with NaN where there is none, and reasons are lists.
    """
    values: dict[str, Any] = {
        c.name: [None] * features.size if c.part == "reason" else np.full(features.size, np.nan) for c in columns
    }
    parts = np.unique(features // PART).tolist()
    for there, scores in _scores_of_parts(connection, label_set_id, parts, list(values)):
        places = np.minimum(np.searchsorted(features, there), features.size - 1)
        asked = features[places] == there
        for name in values:
            if name in scores.arrays:
                values[name][places[asked]] = scores.arrays[name][asked]
            for row, reason in scores.reasons.get(name, {}).items():
                if asked[row]:
                    values[name][places[row]] = reason
    return values


def _scores_of_parts(
    connection: Connection, label_set_id: int, parts: list[int], names: list[str]
) -> Iterator[tuple[np.ndarray, StoredScores]]:
    """Yield the features of each part and their scores: from its columns, or from its rows where they have changed."""
    changed = set(changed_parts(connection, label_set_id)).intersection(parts)
    for part in changed:
        rows = _rows_of(connection, label_set_id, part)
        yield np.array(rows["feature_index"], dtype=np.int64), StoredScores.of(rows["scores"])
    query = select(COLUMNS.c.part, COLUMNS.c.name, COLUMNS.c.content).where(
        COLUMNS.c.label_set_id == label_set_id,
        COLUMNS.c.part.in_(sorted({*parts} - changed)),
        COLUMNS.c.name.in_(["feature_index", *names]),
    )
    found: dict[int, dict[str, bytes]] = {}
    for part, name, content in fetch_plain(connection, query):
        found.setdefault(part, {})[name] = content
    for contents in found.values():
        features = np.frombuffer(contents.pop("feature_index"), np.int32).astype(np.int64)
        why = {n: orjson.loads(contents.pop(n)) for n in names if n.endswith("_reason") and n in contents}
        arrays = {name: np.frombuffer(content, _kind(name)) for name, content in contents.items()}
        yield features, StoredScores(arrays, {n: {int(r): text for r, text in w.items()} for n, w in why.items()}, {})


def scores_in(connection: Connection, label_set_id: int) -> dict[str, set[str]]:
    """Return the scores that results of the label set have, each with the parts that any of them has.

    They come from the figures of the parts, and from the rows of parts that have changed since.
    """
    changed = changed_parts(connection, label_set_id)
    query = select(COLUMNS.c.content).where(
        COLUMNS.c.label_set_id == label_set_id,
        COLUMNS.c.part > WHOLE,
        COLUMNS.c.part.not_in(changed),
        COLUMNS.c.name == FIGURES,
    )
    found = [orjson.loads(content)["scores"] for (content,) in fetch_plain(connection, query)]
    found += [StoredScores.of(_rows_of(connection, label_set_id, part)["scores"]).figures for part in changed]
    scores: dict[str, set[str]] = {}
    for of_part in found:
        for name, there in of_part.items():
            scores.setdefault(name, set()).update(there["parts"])
    return scores


def version_of(connection: Connection, label_set_id: int) -> str:
    """Return the version of the columns, which changes with the results."""
    query = select(COLUMNS.c.part, COLUMNS.c.version).where(
        COLUMNS.c.label_set_id == label_set_id, COLUMNS.c.part > WHOLE, COLUMNS.c.name == FIGURES
    )
    return _version(dict(map(tuple, connection.execute(query))))


def count_states(connection: Connection) -> Counter[str]:
    """Count the results of all label sets by state.

    The counts come from the figures of the parts, and from the rows of parts that have changed since.
    """
    of_part = (CHANGES.c.label_set_id == COLUMNS.c.label_set_id) & (CHANGES.c.part == COLUMNS.c.part)
    figures = select(COLUMNS.c.content).where(
        # Label sets are named for the index's sake: the figures are few among large columns.
        COLUMNS.c.label_set_id.in_(select(LABEL_SETS.c.id)),
        COLUMNS.c.part > WHOLE,
        COLUMNS.c.name == FIGURES,
        ~exists().where(of_part),
    )
    changed = select(CHANGES.c.label_set_id, CHANGES.c.part).distinct().subquery()
    first = changed.c.part * PART
    rows = (
        select(RESULTS.c.state, func.count())
        .join(changed, RESULTS.c.label_set_id == changed.c.label_set_id)
        .where(RESULTS.c.feature_index.between(first, first + PART - 1))
        .group_by(RESULTS.c.state)
    )
    counts = Counter(dict(map(tuple, connection.execute(rows))))
    for (content,) in fetch_plain(connection, figures):
        counts.update(orjson.loads(content)["states"])
    return counts


def count_labeled(connection: Connection, label_sets: Collection[int]) -> dict[int, int]:
    """Count the labeled features in each of these label sets.

    The counts come from the figures of the parts, and from the rows of parts that have changed since.
    """
    if not label_sets:
        return {}
    of_part = (CHANGES.c.label_set_id == COLUMNS.c.label_set_id) & (CHANGES.c.part == COLUMNS.c.part)
    figures = select(COLUMNS.c.label_set_id, COLUMNS.c.content).where(
        COLUMNS.c.label_set_id.in_(label_sets),
        COLUMNS.c.part > WHOLE,
        COLUMNS.c.name == FIGURES,
        ~exists().where(of_part),
    )
    changes = (CHANGES.c.label_set_id, CHANGES.c.part)
    changed = select(*changes).where(CHANGES.c.label_set_id.in_(label_sets)).distinct().subquery()
    first = changed.c.part * PART
    rows = (
        select(RESULTS.c.label_set_id, func.count())
        .join(changed, RESULTS.c.label_set_id == changed.c.label_set_id)
        .where(RESULTS.c.feature_index.between(first, first + PART - 1), RESULTS.c.state == str(State.LABELED))
        .group_by(RESULTS.c.label_set_id)
    )
    counts = Counter(dict(map(tuple, connection.execute(rows))))
    for label_set, content in fetch_plain(connection, figures):
        counts[label_set] += orjson.loads(content)["states"].get(str(State.LABELED), 0)
    return {label_set: counts[label_set] for label_set in label_sets}


def _version(versions: Mapping[int, int]) -> str:
    return hashlib.sha256(repr(sorted(versions.items())).encode()).hexdigest()[:24]


def version_of_rows(connection: Connection, label_set_id: int) -> str:
    """Return the version of the results and their reviews; it changes whenever an export would change."""
    of_set = CHANGES.c.label_set_id == label_set_id
    marks = connection.execute(select(CHANGES.c.part, CHANGES.c.writer, CHANGES.c.n).where(of_set).order_by(*CHANGES.c))
    # Reviews are only ever added or withdrawn.
    counts = func.max(REVIEWS.c.id), func.count(REVIEWS.c.withdrawn_at)
    reviews = tuple(connection.execute(select(*counts).where(REVIEWS.c.label_set_id == label_set_id)).one())
    parts = (version_of(connection, label_set_id), list(map(tuple, marks)), reviews)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def keep_whole(connection: Connection, label_set_id: int, name: str, content: bytes) -> None:
    """Keep what was computed from the whole label set; `content` itself names its version."""
    insert = insert_into(COLUMNS, connection.dialect.name)
    values = {"label_set_id": label_set_id, "part": WHOLE, "name": name, "version": 0, "content": content}
    connection.execute(
        insert.values(values).on_conflict_do_update(
            index_elements=["label_set_id", "part", "name"], set_={"content": insert.excluded.content}
        )
    )


def whole(connection: Connection, label_set_id: int, name: str) -> bytes | None:
    of_set = (COLUMNS.c.label_set_id == label_set_id) & (COLUMNS.c.part == WHOLE)
    found = connection.execute(select(COLUMNS.c.content).where(of_set, COLUMNS.c.name == name)).scalar_one_or_none()
    return None if found is None else bytes(found)
