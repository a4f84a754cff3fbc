"""The export formats of a label set, by their names in `labeler export --format`."""

from __future__ import annotations

from pathlib import Path

from labeler.errors import InputError
from labeler.export.export import export_label_set
from labeler.export.hf import export_dataset
from labeler.export.saebench import export_saebench
from labeler.export.stream import FORMATS
from labeler.store import Store

ENDINGS = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_NOTHING = (
    "label set {id} has no results yet: an export of it would have 0 rows, and nothing was written; label it first, or choose "
    "another with --label-set (`labeler sets` lists them)"
)
_KNOWN = (*FORMATS, "hf", "saebench", "neuronpedia")


def format_of(out: Path, format: str | None = None) -> str:
    """Return the named format, else that of the file's ending.

    Raises InputError where the two differ, or neither is known.
    """
    if format is not None and format not in _KNOWN:
        raise InputError(f"format {format!r} is not known: choose one of {', '.join(_KNOWN)}")
    by_ending = ENDINGS.get(out.suffix.lower())
    if format is None and by_ending is None:
        raise InputError(
            f"{out}: its ending names no format; name a file that ends in {', '.join(ENDINGS)}, or choose --format "
            f"{', '.join(_KNOWN)}"
        )
    if format is not None and by_ending not in (None, format):
        raise InputError(f"{out} has the ending of {by_ending}, but --format says {format}: change one of them")
    return format or str(by_ending)


def check_has_results(store: Store, label_set_id: int) -> None:
    """Raise InputError for a label set without results, since its file would be empty."""
    if not store.has_results(label_set_id):
        raise InputError(_NOTHING.format(id=label_set_id))


def export_as(
    store: Store,
    label_set_id: int,
    format: str,
    out: Path,
    top_contexts: int = 0,
    model: str | None = None,
    source: str | None = None,
    *,
    spreadsheet: bool = False,
) -> int:
    """Write the label set to a file or a new folder, and return the number of features in it.

    `model` and `source` are its names at Neuronpedia. Raises InputError for an option that the format cannot hold, and for a
    label set without results.
    """
    format = format_of(out, format)
    check_has_results(store, label_set_id)
    if spreadsheet and format != "csv":
        raise InputError(f"--spreadsheet is a form of csv, and not of {format}: leave it out, or choose csv")
    if format != "neuronpedia" and (model or source):
        raise InputError(f"--model and --source go with --format neuronpedia, and not with {format}")
    if format == "hf":
        return export_dataset(store, label_set_id, out, top_contexts=top_contexts)
    if format == "saebench":
        if top_contexts:
            raise InputError("--top-contexts: SAEBench's summary has no place for contexts; choose another --format")
        return export_saebench(store, label_set_id, out)
    if format == "neuronpedia":
        from labeler.neuronpedia.write import N_TOP, write_tree

        return write_tree(store, label_set_id, out, model=model, source=source, n_top=top_contexts or N_TOP)
    return export_label_set(store, label_set_id, format, out, top_contexts=top_contexts, spreadsheet=spreadsheet)
