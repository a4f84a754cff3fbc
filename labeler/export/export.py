"""Export of a label set as JSONL, CSV or Parquet that pandas can read, with the card inside or beside.

Files are streamed, so memory does not grow with the number of features. They appear whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from labeler.errors import InputError
from labeler.evidence.store import EvidenceFolder
from labeler.export.card import build_card, card_markdown
from labeler.export.columns import READ_CSV
from labeler.export.stream import FORMATS, LabelRows, encode_rows, read_rows
from labeler.files import strict_json, whole_file, write_atomically
from labeler.records import Source, Split
from labeler.schema import CONTEXTS
from labeler.store import LabelSetInfo, Store
from labeler.store.label_sets.imported import has_contexts, imported_contexts, is_imported
from labeler.store.label_sets.scan import Batch

_CONTEXT_ROWS_AT_ONCE = 500  # contexts are a hundred times as large as the rest of a row

SPREADSHEET = "spreadsheet"  # the key in the card of a CSV whose texts were changed for a spreadsheet
_HOW_TO_READ = {
    False: f"""
## Reading this CSV

- A label may be `NA`, `null` or `None`. For pandas: `{READ_CSV}`.
- A spreadsheet runs cells that begin with `=`, `+`, `-` or `@`, and these labels quote texts of strangers. For a spreadsheet, export with `--spreadsheet`.
""",
    True: """
## Reading this CSV

- For spreadsheets: an apostrophe stands before each text that could be run as a formula, and line breaks and tabs are visible signs. The exact texts are in JSONL, Parquet, and CSV without `--spreadsheet`.
""",
}

ContextsOf = Callable[[list[int]], dict[int, list[dict[str, Any]]]]


def export_label_set(
    store: Store, label_set_id: int, format: str, path: Path, *, top_contexts: int = 0, spreadsheet: bool = False
) -> int:
    """Write a label set to `path` and return the number of features in it. Features without a result are not.

    With `top_contexts`, each row carries this many of the feature's strongest EXPLAIN contexts. `spreadsheet`: CSV that a
    spreadsheet may open. Raises InputError for an unknown format, NotFoundError for an unknown label set, StorageError on
    a full disk.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not known: choose one of {', '.join(FORMATS)}")
    if spreadsheet and format != "csv":
        raise InputError(f"--spreadsheet is a form of csv, and not of {format}: leave it out, or choose csv")
    check_is_file(path, format)
    info = store.label_set(label_set_id)
    rows, count = read_rows(store, label_set_id), RowCount()
    if top_contexts:
        rows = with_top_contexts(store, info, rows, top_contexts)
    card = build_card(store, label_set_id)
    with whole_file(path) as file:
        file.writelines(encode_rows(format, count.watch(rows), lambda: card, spreadsheet=spreadsheet))
    write_card(path, format, card, card_markdown(card), spreadsheet=spreadsheet)
    return count.n


def check_is_file(path: Path, format: str) -> None:
    """Raise InputError if `path` is a folder, which a file cannot replace."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file to write, such as {path / f'labels.{format}'}")


def write_card(path: Path, format: str, card: dict[str, Any], markdown: str, *, spreadsheet: bool = False) -> None:
    """Write the card beside the file at `path`. Beside CSV it also says how to read the file.

    Parquet has the card inside."""
    if format == "csv":
        markdown += _HOW_TO_READ[spreadsheet]
        card = {**card, "form": SPREADSHEET} if spreadsheet else card
    write_atomically(path.with_name(path.name + ".card.md"), markdown.encode())
    if format != "parquet":
        write_atomically(path.with_name(path.name + ".card.json"), strict_json(card, indent=1).encode())


def with_top_contexts(store: Store, info: LabelSetInfo, rows: LabelRows, n: int) -> LabelRows:
    """Add the strongest EXPLAIN contexts to each row, or the contexts that an imported file brought."""
    contexts_of = _brought(store, info, n) if is_imported(info.evidence_path) else _gathered(info.evidence_path, n)

    def batches() -> Iterator[Batch]:
        for batch in rows.batches:
            for low in range(0, len(batch["feature_index"]), _CONTEXT_ROWS_AT_ONCE):
                part = {name: values[low : low + _CONTEXT_ROWS_AT_ONCE] for name, values in batch.items()}
                contexts = contexts_of(part["feature_index"])
                yield {**part, CONTEXTS.name: [contexts[feature] for feature in part["feature_index"]]}

    return replace(rows, columns=(*rows.columns, CONTEXTS), batches=batches())


def _gathered(evidence_path: str, n: int) -> ContextsOf:
    folder = EvidenceFolder(evidence_path)
    return lambda features: {feature: _top_contexts(folder, feature, n) for feature in features}


def _brought(store: Store, info: LabelSetInfo, n: int) -> ContextsOf:
    if not has_contexts(store, info.id):
        raise InputError(f"label set {info.id} was imported without contexts: export it without --top-contexts")

    def contexts_of(features: list[int]) -> dict[int, list[dict[str, Any]]]:
        found = imported_contexts(store, info.id, features)
        return {feature: found.get(feature, [])[:n] for feature in features}

    return contexts_of


class RowCount:
    """Counts the rows that pass, and keeps the last feature among them."""

    def __init__(self) -> None:
        self.n, self.last = 0, -1

    def watch(self, rows: LabelRows) -> LabelRows:
        def batches() -> Iterator[Batch]:
            for batch in rows.batches:
                self.n, self.last = self.n + len(batch["feature_index"]), batch["feature_index"][-1]
                yield batch

        return replace(rows, batches=batches())


def _top_contexts(folder: EvidenceFolder, feature_index: int, n: int) -> list[dict[str, Any]]:
    windows = folder.windows(feature_index, Source.TOP, Split.EXPLAIN)
    strongest = windows.take(range(min(n, len(windows))))
    return [
        {"text": c.text, "tokens": list(c.tokens), "activations": list(c.activations)}
        for c in folder.contexts(strongest, Source.TOP, Split.EXPLAIN)
    ]
