"""A label set taken away: JSONL, CSV or Parquet, readable with nothing but pandas, with the card inside or beside.

Files are streamed, so memory does not grow with the number of features, and appear whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from labeler.errors import InputError
from labeler.evidence.store import EvidenceFolder
from labeler.export.card import build_card, card_markdown
from labeler.export.columns import TOP_CONTEXTS
from labeler.export.stream import FORMATS, Batch, LabelRows, encode_rows, read_rows
from labeler.files import clear_disk_errors, write_atomically
from labeler.records import Source, Split
from labeler.store import Store

_CONTEXT_ROWS_AT_ONCE = 500  # contexts weigh a hundred times what the rest of a row does


def export_label_set(store: Store, label_set_id: int, format: str, path: Path, *, top_contexts: int = 0) -> int:
    """Write a label set to `path`; returns the number of features in it, which are those that have a result.

    With `top_contexts`, each row carries so many of the feature's strongest EXPLAIN contexts.
    Raises InputError for an unknown format, NotFoundError for an unknown label set, StorageError on a full disk.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known: choose one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file to write, such as {path / f'labels.{format}'}")
    info = store.label_set(label_set_id)
    rows, count = read_rows(store, label_set_id), list[int]()
    if top_contexts:
        rows = _with_top_contexts(rows, info.evidence_path, top_contexts)
    card = build_card(store, label_set_id)
    with clear_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            for piece in encode_rows(format, _counted(rows, count), lambda: card):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    write_atomically(path.with_name(path.name + ".card.md"), card_markdown(card).encode())
    if format != "parquet":
        write_atomically(path.with_name(path.name + ".card.json"), _json(card, indent=1).encode())
    return sum(count)


def _with_top_contexts(rows: LabelRows, evidence_path: str, n: int) -> LabelRows:
    folder, feature = EvidenceFolder(evidence_path), rows.names.index("feature_index")
    batches = (
        [(*row, _top_contexts(folder, row[feature], n)) for row in batch[low : low + _CONTEXT_ROWS_AT_ONCE]]
        for batch in rows.batches
        for low in range(0, len(batch), _CONTEXT_ROWS_AT_ONCE)
    )
    return replace(rows, names=(*rows.names, TOP_CONTEXTS), batches=batches)


def _counted(rows: LabelRows, count: list[int]) -> LabelRows:
    def counting() -> Iterator[Batch]:
        for batch in rows.batches:
            count.append(len(batch))
            yield batch

    return replace(rows, batches=counting())


def _top_contexts(folder: EvidenceFolder, feature_index: int, n: int) -> list[dict[str, Any]]:
    windows = folder.windows(feature_index, Source.TOP, Split.EXPLAIN)
    strongest = windows.take(range(min(n, len(windows))))
    return [
        {"text": c.text, "tokens": list(c.tokens), "activations": list(c.activations)}
        for c in folder.contexts(strongest, Source.TOP, Split.EXPLAIN)
    ]


def _json(value: Any, indent: int | None = None) -> str:
    # Strict: a NaN is a bug of ours, and no other reader would take it.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
