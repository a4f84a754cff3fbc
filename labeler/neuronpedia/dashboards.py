"""SAEDashboard's output folder read as evidence: `batch-<n>.json`, each one object with some features and their contexts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from labeler.errors import FormatError, NotFoundError
from labeler.evidence.given import GivenContext, GivenFacts, GivenSource, write_given
from labeler.neuronpedia.layout import TOP
from labeler.neuronpedia.lines import Placed, Problem, refuse
from labeler.neuronpedia.read import (
    histogram_of,
    index_at,
    number_at,
    pairs_at,
    texts_and_numbers,
    unknown_sae,
    unknown_subject,
)

_BATCH = re.compile(r"batch-(0|[1-9]\d*)\.json", re.ASCII)


def read_dashboards(folder: Path, out: Path, window_tokens: int | None = None) -> dict[str, Any]:
    """Write the evidence into `out` and return the manifest.

    Raises NotFoundError where there are no batches, FormatError naming file and place of what cannot be read.
    """
    batches = _batches(folder)
    # One batch is in memory at a time; a part that is needed later is read again.
    return write_given(out, _source(batches), _facts(batches), _contexts(batches), window_tokens)


def _batches(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder; give the output folder of SAEDashboard's neuronpedia runner")
    found = {int(m[1]): p for p in folder.iterdir() if (m := _BATCH.fullmatch(p.name))}
    if not found:
        raise NotFoundError(
            f"{folder}: holds no batch-<n>.json; give the output folder of SAEDashboard's neuronpedia runner"
        )
    if missing := sorted(set(range(max(found) + 1)) - set(found)):
        refuse(
            Problem("missing-batch", folder / f"batch-{missing[0]}.json", None, "is missing, and later ones are there")
        )
    return [found[number] for number in sorted(found)]


def _load(path: Path) -> dict[str, Any]:
    try:
        batch = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise FormatError(str(Problem("json", path, error.lineno, f"not JSON, or cut ({error})"))) from error
    if not isinstance(batch, dict) or not isinstance(batch.get("features"), list):
        refuse(Problem("json", path, 1, "expected an object with a list of 'features'"))
    return dict(batch)


def _identity(batch: dict[str, Any]) -> tuple[str, str]:
    suffix = batch.get("sae_id_suffix")
    source = f"{batch.get('layer')}-{batch.get('sae_set')}" + (f"__{suffix}" if suffix else "")
    return str(batch.get("model_id") or "unknown"), source


def _source(batches: list[Path]) -> GivenSource:
    batch = _load(batches[0])
    model, source = _identity(batch)
    datasets = {str(f.get("dataset")) for f in batch["features"] if isinstance(f, dict) and f.get("dataset")}
    return GivenSource(
        "saedashboard",
        model,
        source,
        unknown_subject(model),
        source,
        "output",
        unknown_sae(str(batch.get("sae_set") or source), model, source),
        min(datasets, default="unknown"),
    )


def _features(batches: list[Path]) -> Iterator[Placed]:
    """Yield each feature with its place: its line, or its number in a batch that is all on one line."""
    seen: dict[int, Path] = {}
    known: tuple[str, str] | None = None
    for path in batches:
        batch = _load(path)
        known = known or _identity(batch)
        if _identity(batch) != known:
            refuse(
                Problem(
                    "names", path, 1, f"is of {'/'.join(_identity(batch))}, and batches before it of {'/'.join(known)}"
                )
            )
        for number, row in enumerate(batch["features"], start=1):
            if not isinstance(row, dict):
                refuse(Problem("json", path, 1, f"feature number {number} of the batch is no object"))
            placed = Placed(path, 1, row)
            index = index_at(placed, "feature_index")
            if index in seen:
                what = (
                    f"feature number {number} of the batch: the same 'feature_index' {index} as in {seen[index].name}"
                )
                refuse(placed.problem("duplicate", what))
            seen[index] = path
            yield placed


def _facts(batches: list[Path]) -> Iterator[GivenFacts]:
    for placed in _features(batches):
        row = placed.row
        yield GivenFacts(
            index_at(placed, "feature_index"),
            number_at(placed, "frac_nonzero"),
            None,  # the highest activation shown is the highest of all
            pairs_at(placed, "pos_str", "pos_values"),
            pairs_at(placed, "neg_str", "neg_values"),
            histogram_of(row.get("logits_hist_data_bar_values"), row.get("logits_hist_data_bar_heights")),
        )


def _contexts(batches: list[Path]) -> Iterator[GivenContext]:
    for placed in _features(batches):
        index, given = index_at(placed, "feature_index"), placed.row.get("activations")
        if not isinstance(given, list):
            refuse(placed.problem("needed-keys", f"feature {index}: 'activations' is no list"))
            continue
        for number, row in enumerate(given):
            one = Placed(placed.file, placed.line, row if isinstance(row, dict) else {})
            tokens, values = texts_and_numbers(one, "tokens", "values")
            if not tokens:
                refuse(one.problem("lengths", f"feature {index}, context {number}: 'tokens' is empty"))
            yield GivenContext(
                index, f"{placed.file.name}:{index}:{number}", tokens, values, row.get("bin_contains") in (None, TOP)
            )
