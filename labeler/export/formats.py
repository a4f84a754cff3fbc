"""The forms that a label set can be taken away in, by the name that `labeler export --format` knows."""

from __future__ import annotations

from pathlib import Path

from labeler.errors import InputError
from labeler.export.export import export_label_set
from labeler.export.hf import export_dataset
from labeler.export.saebench import export_saebench
from labeler.export.stream import FORMATS
from labeler.store import Store

_KNOWN = (*FORMATS, "hf", "saebench", "neuronpedia")


def export_as(
    store: Store, label_set_id: int, format: str, out: Path, top_contexts: int = 0,
    model: str | None = None, source: str | None = None,
) -> int:  # fmt: skip
    """Write the label set to a file, or to a new folder where the format is one; returns the features in it.

    `model` and `source` are its names at Neuronpedia. Raises InputError for what the format has no place for.
    """
    if format not in _KNOWN:
        raise InputError(f"format {format!r} is not known: choose one of {', '.join(_KNOWN)}")
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
    return export_label_set(store, label_set_id, format, out, top_contexts=top_contexts)
