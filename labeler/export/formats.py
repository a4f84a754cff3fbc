"""The forms that a label set can be taken away in, by the name that `labeler export --format` knows.

Neuronpedia's tree has a room of its own (labeler/neuronpedia), since it has names to be told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labeler.errors import InputError
from labeler.export.export import export_label_set
from labeler.export.hf import export_dataset
from labeler.export.saebench import export_saebench
from labeler.export.stream import FORMATS
from labeler.store import Store

Writer = Callable[[Store, int, Path, int], int]  # what is written, where to, contexts a feature; features written


def export_as(store: Store, label_set_id: int, format: str, out: Path, top_contexts: int = 0) -> int:
    """Write the label set to a file, or to a new folder where the format is one; returns the features in it."""
    known = (*FORMATS, *_OTHERS)
    if format not in known:
        raise InputError(f"format {format!r} is not known: choose one of {', '.join(known)}, neuronpedia")
    if format in FORMATS:
        return export_label_set(store, label_set_id, format, out, top_contexts=top_contexts)
    return _OTHERS[format](store, label_set_id, out, top_contexts)


def _hf(store: Store, label_set_id: int, out: Path, top_contexts: int) -> int:
    return export_dataset(store, label_set_id, out, top_contexts=top_contexts)


def _saebench(store: Store, label_set_id: int, out: Path, top_contexts: int) -> int:
    if top_contexts:
        raise InputError("--top-contexts: SAEBench's summary has no place for contexts; choose another --format")
    return export_saebench(store, label_set_id, out)


def _neuronpedia(store: Store, label_set_id: int, out: Path, top_contexts: int) -> int:
    from labeler.neuronpedia.write import N_TOP, write_tree

    return write_tree(store, label_set_id, out, n_top=top_contexts or N_TOP)


_OTHERS: dict[str, Writer] = {"neuronpedia": _neuronpedia, "hf": _hf, "saebench": _saebench}
