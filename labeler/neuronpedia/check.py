"""Checks of a tree against the rules of Neuronpedia's import. Each problem has a file, a line and a rule.

rule             says
place            v1/config and v1/<model>/<source>, with <source> as <layer>-<set>
config           the four files of v1/config, each with lines
metadata         release, model, sourceset and source: plain, one line each
metadata-keys    only keys that their table has, and all required ones
table            features, activations, explanations, scores: where features are, activations are
file-name        only batch-<n>.jsonl.gz is read
missing-batch    numbered from 0 without a gap
too-many-files   1,000 files per folder
small-file       1,024 features or more per file, except the last
gzip, json, empty-file, needed-keys, same-keys, duplicate
names            modelId, layer and sourceSetName are those of the folder
index            a number
author           the bot's
time             ISO 8601
lengths          lists that belong together have equal lengths
extremes         maxValue, maxValueTokenIndex and minValue are those of `values`
bins             -1 marks the TOP group; others have a share in 0..1
embedding        null, or 256 numbers
score            within 0..1, with details that are JSON
reference        a row's references exist: feature, explanation, types and models in v1/config
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from labeler.errors import NotFoundError
from labeler.neuronpedia.layout import CONFIG, VERSION
from labeler.neuronpedia.lines import Problem, Report
from labeler.neuronpedia.rules import Source, metadata_keys, plain


@dataclass
class Checked:
    problems: list[Problem] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)  # number of rows by table


def check_tree(root: Path, most: int = 1000) -> Checked:
    """Find the problems of a tree, at most `most`. Raises NotFoundError where there is no tree at all."""
    tree = root / VERSION if (root / VERSION).is_dir() else root
    if not tree.is_dir():
        raise NotFoundError(f"{root}: no such folder; give the one that holds {VERSION}/")
    checked = Checked()

    def report(problem: Problem) -> None:
        if len(checked.problems) < most:
            checked.problems.append(problem)

    config = _check_config(tree / "config", report)
    sources = [s for m in sorted(tree.iterdir()) if m.is_dir() and m.name != "config" for s in sorted(m.iterdir())]
    if not sources:
        report(Problem("place", tree, None, f"holds no <model>/<source> below {VERSION}/"))
    for source in sources:
        for table, n in Source(source, config, report).check().items():
            checked.rows[table] = checked.rows.get(table, 0) + n
    return checked


def _check_config(folder: Path, report: Report) -> dict[str, set[str]]:
    """Check the config files, and return the names in each."""
    names: dict[str, set[str]] = {}
    for name in CONFIG:
        lines = plain(folder / f"{name}.jsonl", "config", report)
        for placed in lines:
            metadata_keys(placed, name, report)
        names[name] = {str(placed.row.get("name")) for placed in lines}
    return names


def summary(rows: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {table}" for table, n in rows.items()) or "nothing"
