"""A tree read as evidence, without model or SAE. An unreadable part of it is refused, with its place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, InputError, NotFoundError
from labeler.evidence.given import GivenContext, GivenFacts, GivenSource, write_given
from labeler.neuronpedia.layout import ACTIVATIONS, EXPLANATIONS, FEATURES, SCORES, TOP, VERSION
from labeler.neuronpedia.lines import Placed, read_plain, read_table, refuse
from labeler.neuronpedia.rules import index_of

_NEEDED = {
    FEATURES: ("modelId", "layer", "index"),
    ACTIVATIONS: ("id", "modelId", "layer", "index", "tokens", "values"),
    EXPLANATIONS: ("id", "index", "description"),
    SCORES: ("id", "value", "explanationId", "explanationScoreTypeName"),
}


@dataclass(frozen=True)
class Tree:
    """One source of a tree."""

    folder: Path

    @property
    def model(self) -> str:
        return self.folder.parent.name

    @property
    def source(self) -> str:
        return self.folder.name

    def rows(self, table: str) -> Iterator[Placed]:
        """Yield the rows of a table, or none if the tree lacks it. Raises FormatError naming file and line."""
        folder = self.folder / table
        if folder.is_dir():
            yield from read_table(folder, _NEEDED[table], "index" if table == FEATURES else "id", refuse)

    def line(self, name: str) -> dict[str, Any]:
        """Return the line of a metadata file, or an empty one if there is none."""
        path = self.folder / f"{name}.jsonl"
        lines = read_plain(path, refuse) if path.is_file() else []
        return lines[0].row if lines else {}


def find_tree(path: Path) -> Tree:
    """Find the source at or below `path`. Raises NotFoundError, or InputError where there are several."""
    if not path.is_dir():
        raise NotFoundError(
            f"{path}: no such folder; give one that holds {VERSION}/<model>/<source>, or a source itself"
        )
    below = {p.parent for depth in (1, 2, 3) for p in path.glob("*/" * depth + ACTIVATIONS) if p.is_dir()}
    found = [path] if _is_source(path) else sorted(below)
    if not found:
        raise NotFoundError(
            f"{path}: holds no <model>/<source>/{ACTIVATIONS}; give a folder of Neuronpedia's import or export format"
        )
    if len(found) > 1:
        raise InputError(f"{path} holds {len(found)} sources: give one of them, such as {found[0]}")
    return Tree(found[0])


def _is_source(path: Path) -> bool:
    return (path / ACTIVATIONS).is_dir()


def read_tree(tree: Tree, out: Path, window_tokens: int | None = None) -> dict[str, Any]:
    """Write the tree's evidence into `out` and return the manifest. Raises FormatError naming file, line and rule."""
    return write_given(out, _source(tree), _facts(tree), _contexts(tree), window_tokens)


def _source(tree: Tree) -> GivenSource:
    line = tree.line("source")
    ours = _ours(line.get("notes"))
    if ours is not None:
        return GivenSource(
            "neuronpedia",
            tree.model,
            tree.source,
            ours["subject"],
            ours["hookpoint"],
            ours["reads"],
            {k: v for k, v in ours["sae"].items() if k != "n_features"},
            ours["corpus"]["spec"],
            ours["sae"]["n_features"],
        )
    return GivenSource(
        "neuronpedia",
        tree.model,
        tree.source,
        unknown_subject(tree.model),
        tree.source,
        "output",
        unknown_sae(str(line.get("saelensSaeId") or line.get("hfFolderId") or tree.source), tree.model, tree.source),
        str(line.get("dataset") or "unknown"),
    )


def unknown_subject(model: str) -> dict[str, Any]:
    return {"id": model, "revision": "unknown", "dtype": "unknown", "hidden_size": None, "n_parameters": None}


def unknown_sae(path: str, model: str, source: str) -> dict[str, Any]:
    """Describe an SAE whose weights are unknown. Its hash must not look like a hash of weights."""
    return {
        "path": path,
        "format": "unknown",
        "sha256": f"unknown:{model}/{source}",
        "architecture": "unknown",
        "d_in": None,
        "prepend_bos": None,
    }


def _ours(notes: Any) -> dict[str, Any] | None:
    """Read the facts that labeler's own writer leaves in a source's notes."""
    try:
        facts = json.loads(notes)["labeler"]
        return facts if {"subject", "hookpoint", "reads", "sae", "corpus"} <= facts.keys() else None
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def _facts(tree: Tree) -> Iterator[GivenFacts]:
    for placed in tree.rows(FEATURES):
        row = placed.row
        yield GivenFacts(
            index_at(placed),
            number_at(placed, "frac_nonzero"),
            number_at(placed, "maxActApprox"),
            pairs_at(placed, "pos_str", "pos_values"),
            pairs_at(placed, "neg_str", "neg_values"),
            histogram_of(row.get("logits_hist_data_bar_values"), row.get("logits_hist_data_bar_heights")),
        )


def _contexts(tree: Tree) -> Iterator[GivenContext]:
    for placed in tree.rows(ACTIVATIONS):
        row = placed.row
        tokens, values = texts_and_numbers(placed, "tokens", "values")
        if not tokens:
            refuse(placed.problem("lengths", "'tokens' is empty"))
        if (row["modelId"], row["layer"]) != (tree.model, tree.source):
            refuse(
                placed.problem(
                    "names", f"is of {row['modelId']}/{row['layer']}, and the folder of {tree.model}/{tree.source}"
                )
            )
        # Rows without a bin are from the time when only the TOP group was shown.
        yield GivenContext(index_at(placed), str(row["id"]), tokens, values, row.get("binContains") in (None, TOP))


def index_at(placed: Placed, key: str = "index") -> int:
    index = index_of(placed.row.get(key))
    if index is None or index >= 1 << 31:
        raise FormatError(
            str(placed.problem("index", f"{key!r} is {placed.row.get(key)!r}: expected a feature's number"))
        )
    return index


def number_at(placed: Placed, key: str) -> float | None:
    value = placed.row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        refuse(placed.problem("needed-keys", f"{key!r} is {value!r}: expected a number"))
    return float(value)


def pairs_at(placed: Placed, texts: str, values: str) -> tuple[tuple[str, float], ...]:
    if placed.row.get(texts) is None or placed.row.get(values) is None:
        return ()
    return tuple(zip(*texts_and_numbers(placed, texts, values), strict=True))


def texts_and_numbers(placed: Placed, texts: str, values: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    one, other = placed.row.get(texts), placed.row.get(values)
    if not isinstance(one, list) or not isinstance(other, list) or len(one) != len(other):
        refuse(placed.problem("lengths", f"{texts!r} and {values!r} are not lists of equal length"))
    if not all(isinstance(t, str) for t in one):
        refuse(placed.problem("lengths", f"{texts!r} holds what is no text"))
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e38 for v in other):
        refuse(placed.problem("lengths", f"{values!r} holds what is no number"))
    return tuple(one), tuple(map(float, other))


def histogram_of(values: Any, heights: Any) -> tuple[tuple[float, int], ...]:
    """Return bins of equal width, or nothing if they are malformed: that is no reason to refuse a tree."""
    if not isinstance(values, list) or not isinstance(heights, list) or len(values) != len(heights):
        return ()
    if not all(isinstance(x, (int, float)) for x in (*values, *heights)) or any(n < 0 for n in heights):
        return ()
    return tuple((float(v), int(n)) for v, n in zip(values, heights, strict=True))
