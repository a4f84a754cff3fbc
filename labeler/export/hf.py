"""A label set as a Hugging Face dataset folder: Parquet shards, and the card as a README with the hub's header."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
from jinja2 import Environment, StrictUndefined

from labeler.export.card import build_card, card_markdown
from labeler.export.export import RowCount, with_top_contexts
from labeler.export.stream import encode_rows, read_rows
from labeler.files import whole_folder, write_atomically, write_json
from labeler.store import Store

_ROWS_A_SHARD = 250_000
_ROWS_A_SHARD_WITH_CONTEXTS = 20_000
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")


def export_dataset(store: Store, label_set_id: int, folder: Path, *, top_contexts: int = 0) -> int:
    """Write a folder that `datasets.load_dataset` opens; returns the number of features in it.

    Raises InputError for a folder that is not empty, NotFoundError for an unknown label set, StorageError on a full
    disk. The folder appears whole or not at all.
    """
    card = build_card(store, label_set_id)
    with whole_folder(folder) as partial:
        (partial / "data").mkdir()
        n_rows, schema = _write_shards(store, label_set_id, partial / "data", card, top_contexts)
        write_json(partial / "card.json", card)
        write_atomically(partial / "README.md", _readme(card, n_rows, schema).encode())
    return n_rows


def _write_shards(
    store: Store, label_set_id: int, folder: Path, card: dict[str, Any], top_contexts: int
) -> tuple[int, pa.Schema]:
    info, size = store.label_set(label_set_id), _ROWS_A_SHARD_WITH_CONTEXTS if top_contexts else _ROWS_A_SHARD
    n_rows, after = 0, -1
    for number in count():
        rows, passed = read_rows(store, label_set_id, after, size), RowCount()
        if top_contexts:
            rows = with_top_contexts(store, info, rows, top_contexts)
        with (folder / f"labels-{number:05d}.parquet").open("wb") as file:
            file.writelines(encode_rows("parquet", passed.watch(rows), lambda: card))
        n_rows, after = n_rows + passed.n, passed.last
        if not _more(store, label_set_id, after):
            return n_rows, rows.schema
    raise AssertionError("count() does not end")


def _more(store: Store, label_set_id: int, after: int) -> bool:
    return any(read_rows(store, label_set_id, after, 1).batches)


def _readme(card: dict[str, Any], n_rows: int, schema: pa.Schema) -> str:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = (files("labeler.export") / "templates" / "dataset.md.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=json.dumps(f"Feature labels of {card['subject']['id']}, {card['hookpoint']}"),
        size=_SIZES[min(max(len(str(n_rows)) - 3, 0), len(_SIZES) - 1)],
        features="\n".join(_lines(features_of(schema), "  ")),
        n_rows=f"{n_rows:,}",
        card=card_markdown(card),
    )


def features_of(schema: pa.Schema) -> list[dict[str, Any]]:
    """Describe the columns in the form of `dataset_info` in a dataset's card."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if not pa.types.is_list(kind):
        return {"dtype": {"double": "float64"}.get(str(kind), str(kind))}
    of = kind.value_type
    return {"list": [*features_of(pa.schema(list(of)))] if pa.types.is_struct(of) else _feature(of)["dtype"]}


def _lines(features: list[dict[str, Any]], indent: str) -> Iterator[str]:
    """Write a value as lines of YAML. This much of YAML needs no library."""
    for feature in features:
        for first, (key, value) in zip("-" + " " * len(feature), feature.items(), strict=False):
            if isinstance(value, list):
                yield f"{indent}{first} {key}:"
                yield from _lines(value, indent + "  ")
            else:
                yield f"{indent}{first} {key}: {value}"
