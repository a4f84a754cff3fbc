"""A label set as the tree that Neuronpedia imports, streamed: memory does not grow with the number of features.

The tree appears whole or not at all, and the same label set always gives the same bytes.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from labeler.errors import InputError
from labeler.evidence.store import BY_OTHERS, EvidenceFolder
from labeler.export.card import build_card, card_markdown
from labeler.files import strict_json, whole_folder, write_atomically
from labeler.neuronpedia.layout import (
    ACTIVATIONS,
    EXPLANATIONS,
    FEATURES,
    FEATURES_PER_FILE,
    FILES_PER_FOLDER,
    SCORES,
    VERSION,
    Place,
    place_of,
)
from labeler.neuronpedia.metadata import NamesUsed, write_config, write_metadata
from labeler.neuronpedia.rows import FeatureRows, Names, Result, Row, explanation_row, score_rows
from labeler.store import Store
from labeler.store.label_sets.imported import is_imported
from labeler.store.label_sets.scan import scan_labels

N_TOP = 20


def write_tree(
    store: Store,
    label_set_id: int,
    out: Path,
    *,
    model: str | None = None,
    source: str | None = None,
    n_top: int = N_TOP,
) -> int:
    """Write the tree below `out`, a new or empty folder, and return the number of labeled features.

    For evidence that others gathered, only explanations and scores are written: Neuronpedia has its features already.
    Raises InputError for names that Neuronpedia would not accept and for an `out` that is in use, NotFoundError, StorageError.
    """
    info, names = store.label_set(label_set_id), Names.of(store.recipe_of(label_set_id))
    manifest = store.manifest_of(label_set_id)
    place = _place(manifest, model, source)
    elsewhere = BY_OTHERS in manifest or is_imported(info.evidence_path)
    folder = None if elsewhere else EvidenceFolder(info.evidence_path)
    per_file = max(FEATURES_PER_FILE, -(-info.n_features // FILES_PER_FOLDER))
    with whole_folder(out) as partial:
        base = partial / VERSION / place.model / place.source
        base.mkdir(parents=True)
        if folder is not None:
            _write_features(FeatureRows(folder, place, info.created_at, n_top), folder.n_features, base, per_file)
        n_labels, used = _write_labels(store, label_set_id, place, names, base, per_file)
        write_config(partial / VERSION / "config", used)
        write_metadata(base, place, manifest, info)
        card = build_card(store, label_set_id)
        write_atomically(partial / "card.json", (strict_json(card, indent=1) + "\n").encode())
        write_atomically(partial / "card.md", card_markdown(card).encode())
    return n_labels


def _place(manifest: dict[str, Any], model: str | None, source: str | None) -> Place:
    theirs = manifest.get(BY_OTHERS)
    known = (
        Place.of(theirs["model"], theirs["source"])
        if theirs
        else place_of(manifest["subject"]["id"], manifest["hookpoint"], manifest["sae"]["path"])
    )
    if source is None and known is None:
        raise InputError(
            f"hookpoint {manifest['hookpoint']!r} names no layer: give --source <layer>-<set>, such as 8-res-jb"
        )
    return Place.of(model or (known.model if known else ""), source or (known.source if known else ""))


def _write_features(rows: FeatureRows, n_features: int, base: Path, per_file: int) -> None:
    with _Batches(base / FEATURES, per_file) as features, _Batches(base / ACTIVATIONS, per_file) as activations:
        for index in range(n_features):
            features.add([rows.feature(index)])
            activations.add(rows.activations(index))


def _write_labels(
    store: Store, label_set_id: int, place: Place, names: Names, base: Path, per_file: int
) -> tuple[int, NamesUsed]:
    used, n_labels = NamesUsed(), 0
    with _Batches(base / EXPLANATIONS, per_file) as explanations, _Batches(base / SCORES, per_file) as scores:
        for result in labeled_results(store, label_set_id):
            row = explanation_row(place, names, result)
            of_label = list(score_rows(names, row["id"], result))
            explanations.add([row])
            scores.add(of_label)
            used.types.add(row["typeName"])
            used.models.add(row["explanationModelName"])
            used.score_types |= {score["explanationScoreTypeName"] for score in of_label}
            used.score_models |= {score["explanationScoreModelName"] for score in of_label}
            n_labels += 1
    return n_labels, used


def labeled_results(store: Store, label_set_id: int, only: int | None = None) -> Iterator[Result]:
    """Yield the results that have a label, in the order of features; with `only`, that of one feature."""
    for index, label, explainer, scores, created_at in scan_labels(store, label_set_id, only):
        yield Result(index, label, explainer, tuple(scores), created_at)


class _Batches:
    """The `batch-<n>.jsonl.gz` of one folder, each with the rows of `per_file` features. No rows give no file."""

    def __init__(self, folder: Path, per_file: int) -> None:
        self._folder, self._per_file = folder, per_file
        self._n_files = self._n_features = 0
        self._raw: BinaryIO | None = None
        self._file: gzip.GzipFile | None = None

    def add(self, rows: Iterable[Row]) -> None:
        """Write all rows of one feature."""
        some = False
        for row in rows:
            if self._file is None:
                self._open()
            assert self._file is not None
            # Numbers of numpy stay as they are: the shortest text of a float32 reads back as the same float32.
            self._file.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
            some = True
        self._n_features += some
        if self._n_features == self._per_file:
            self._close()

    def _open(self) -> None:
        self._folder.mkdir(exist_ok=True)
        self._raw = (self._folder / f"batch-{self._n_files}.jsonl.gz").open("wb")
        # No name and no time inside, so the same rows give the same bytes.
        self._file = gzip.GzipFile(filename="", mode="wb", compresslevel=5, fileobj=self._raw, mtime=0)
        self._n_files += 1

    def _close(self) -> None:
        if self._file is not None and self._raw is not None:
            self._file.close()
            self._raw.close()
        self._file = self._raw = None
        self._n_features = 0

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
