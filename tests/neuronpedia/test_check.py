"""A tree that keeps every rule but one: the checker names the rule, the file and the line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from labeler.errors import NotFoundError
from labeler.neuronpedia.check import Problem, check_tree
from tests.neuronpedia.conftest import SOURCE, Rows, change, read_rows, write_rows

Break = Callable[[Path], object]


def rules_broken(problems: Iterable[Problem]) -> list[str]:
    return sorted({problem.rule for problem in problems})


def in_rows(table: str, edit: Callable[[Rows], object]) -> Break:
    return lambda tree: change(tree / SOURCE / table / "batch-0.jsonl.gz", edit)


def setting(table: str, line: int, **values: Any) -> Break:
    return in_rows(table, lambda rows: rows[line - 1].update(values))


def in_metadata(name: str, **values: Any) -> Break:
    return lambda tree: change(tree / SOURCE / f"{name}.jsonl", lambda rows: rows[0].update(values))


def cut(tree: Path) -> None:
    path = tree / SOURCE / "scores/batch-0.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-40])


def cut_json(tree: Path) -> None:
    import gzip

    path = tree / SOURCE / "explanations/batch-0.jsonl.gz"
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text[: len(text) - 20]))


def split(table: str, at: int) -> Break:
    """The rows of one file in two, the first with too few features."""

    def into_two(tree: Path) -> None:
        folder = tree / SOURCE / table
        rows = read_rows(folder / "batch-0.jsonl.gz")
        write_rows(folder / "batch-0.jsonl.gz", rows[:at])
        write_rows(folder / "batch-1.jsonl.gz", rows[at:])

    return into_two


def rename(old: str, new: str) -> Break:
    return lambda tree: (tree / SOURCE / old).rename(tree / SOURCE / new)


def write(path: str, content: bytes) -> Break:
    return lambda tree: (tree / path).write_bytes(content)


def remove(path: str) -> Break:
    return lambda tree: (tree / path).unlink()


BREAKS: list[tuple[str, str, str, int | None, Break]] = [
    ("a config file is missing", "config", "explanation_type.jsonl", None, remove("v1/config/explanation_type.jsonl")),
    ("a metadata file is missing", "metadata", "release.jsonl", None, remove(f"{SOURCE}/release.jsonl")),
    (
        "two lines of metadata",
        "metadata",
        "model.jsonl",
        2,
        lambda tree: change(tree / SOURCE / "model.jsonl", lambda r: r.append(r[0])),
    ),
    ("metadata that is compressed", "metadata", "release.jsonl.gz", None, write(f"{SOURCE}/release.jsonl.gz", b"")),
    ("an extra key in metadata", "metadata-keys", "source.jsonl", 1, in_metadata("source", colour="red")),
    (
        "metadata without a needed key",
        "metadata-keys",
        "sourceset.jsonl",
        1,
        in_metadata("sourceset", creatorName=None),
    ),
    (
        "an extra key in config",
        "metadata-keys",
        "explanation_type.jsonl",
        1,
        lambda tree: change(tree / "v1/config/explanation_type.jsonl", lambda r: r[0].update(x=1)),
    ),
    ("metadata of another source", "names", "source.jsonl", 1, in_metadata("source", id="4-sae")),
    ("a folder without a layer", "place", "sae", None, lambda tree: (tree / SOURCE).rename(tree / "v1/subject/sae")),
    (
        "a plain file in a data folder",
        "file-name",
        "batch-1.jsonl",
        None,
        write(f"{SOURCE}/features/batch-1.jsonl", b"{}\n"),
    ),
    (
        "a file of another name",
        "file-name",
        "part-0.jsonl.gz",
        None,
        rename("features/batch-0.jsonl.gz", "features/part-0.jsonl.gz"),
    ),
    (
        "a missing batch",
        "missing-batch",
        "batch-0.jsonl.gz",
        None,
        rename("features/batch-0.jsonl.gz", "features/batch-1.jsonl.gz"),
    ),
    (
        "activations are missing",
        "table",
        "activations",
        None,
        lambda tree: (tree / SOURCE / "activations").rename(tree / "away"),
    ),
    ("too few features in a file", "small-file", "batch-0.jsonl.gz", None, split("features", 10)),
    ("wrong gzip", "gzip", "batch-0.jsonl.gz", 1, write(f"{SOURCE}/features/batch-0.jsonl.gz", b"no gzip at all")),
    ("gzip that is cut", "gzip", "batch-0.jsonl.gz", None, cut),
    ("JSON that is cut", "json", "batch-0.jsonl.gz", 9, cut_json),
    ("a line that is no object", "json", "batch-0.jsonl.gz", 3, in_rows("features", lambda rows: rows.insert(2, [1]))),  # type: ignore[arg-type]
    ("a file without a line", "empty-file", "batch-0.jsonl.gz", None, in_rows("features", lambda rows: rows.clear())),
    (
        "a column is missing",
        "needed-keys",
        "batch-0.jsonl.gz",
        1,
        in_rows("features", lambda rows: [r.pop("pos_str") for r in rows]),
    ),
    ("keys differ from the first line", "same-keys", "batch-0.jsonl.gz", 4, setting("features", 4, extra=1)),
    (
        "a duplicate id",
        "duplicate",
        "batch-0.jsonl.gz",
        5,
        in_rows("explanations", lambda rows: rows[4].update(id=rows[1]["id"])),
    ),
    ("a feature that comes twice", "duplicate", "batch-0.jsonl.gz", 7, setting("features", 7, index="2")),
    ("another source's row", "names", "batch-0.jsonl.gz", 2, setting("features", 2, layer="4-sae")),
    ("another set's row", "names", "batch-0.jsonl.gz", 2, setting("features", 2, sourceSetName="other")),
    ("an index that is no number", "index", "batch-0.jsonl.gz", 2, setting("explanations", 2, index="two")),
    ("another author", "author", "batch-0.jsonl.gz", 2, setting("explanations", 2, authorId="me")),
    ("a time of no form", "time", "batch-0.jsonl.gz", 2, setting("features", 2, createdAt="yesterday")),
    ("a value for each token", "lengths", "batch-0.jsonl.gz", 1, setting("activations", 1, values=[1.0])),
    (
        "a histogram with a value for each bar",
        "lengths",
        "batch-0.jsonl.gz",
        1,
        setting("features", 1, freq_hist_data_bar_values=[]),
    ),
    ("a maximum that is none", "extremes", "batch-0.jsonl.gz", 1, setting("activations", 1, maxValue=99.0)),
    (
        "a place that is not the maximum's",
        "extremes",
        "batch-0.jsonl.gz",
        1,
        setting("activations", 1, maxValueTokenIndex=-1),
    ),
    ("a share above 1", "bins", "batch-0.jsonl.gz", 4, setting("activations", 4, binContains=1.5)),
    ("half a TOP mark", "bins", "batch-0.jsonl.gz", 1, setting("activations", 1, binMin=0)),
    (
        "an embedding of the wrong length",
        "embedding",
        "batch-0.jsonl.gz",
        1,
        setting("explanations", 1, embedding=[0.5]),
    ),
    ("a score below 0", "score", "batch-0.jsonl.gz", 2, setting("scores", 2, value=-0.1)),
    ("details that are no JSON", "score", "batch-0.jsonl.gz", 2, setting("scores", 2, jsonDetails="{")),
    ("a score of no explanation", "reference", "batch-0.jsonl.gz", 2, setting("scores", 2, explanationId="c0")),
    ("an explanation of no feature", "reference", "batch-0.jsonl.gz", 2, setting("explanations", 2, index="777")),
    (
        "a type that config does not know",
        "reference",
        "batch-0.jsonl.gz",
        2,
        setting("explanations", 2, typeName="mine"),
    ),
    (
        "a score's type that config does not know",
        "reference",
        "batch-0.jsonl.gz",
        2,
        setting("scores", 2, explanationScoreTypeName="mine"),
    ),
]


@pytest.mark.parametrize(("rule", "file", "line", "broken"), [b[1:] for b in BREAKS], ids=[b[0] for b in BREAKS])
def test_what_breaks_a_rule_is_found(tree: Path, rule: str, file: str, line: int | None, broken: Break) -> None:
    broken(tree)
    problems = check_tree(tree).problems
    assert rule in rules_broken(problems), problems
    found = [p for p in problems if p.rule == rule and p.file.name == file and line in (None, p.line)]
    assert found, problems
    assert str(found[0].file) in str(found[0])
    assert f"[{rule}]" in str(found[0])


def test_every_rule_of_the_table_is_tried() -> None:
    from labeler.neuronpedia import check

    assert check.__doc__ is not None
    table = check.__doc__.split("says\n")[1].splitlines()
    named = {
        word.strip(",")
        for row in table
        for word in ([row.split()[0]] if ":" in row or "  " in row.strip() else row.split())
    }
    assert named - {b[1] for b in BREAKS} == {"too-many-files"}, "which takes 1,001 files, and has a test of its own"


def test_a_folder_with_too_many_files(tree: Path) -> None:
    folder = tree / SOURCE / "explanations"
    (row, *_) = read_rows(folder / "batch-0.jsonl.gz")
    for number in range(1001):
        write_rows(folder / f"batch-{number}.jsonl.gz", [{**row, "id": str(number)}])
    assert "too-many-files" in rules_broken(check_tree(tree, most=10_000).problems)


def test_what_is_allowed(tree: Path) -> None:
    change(tree / SOURCE / "features/batch-0.jsonl.gz", lambda rows: [row.update(extra=1) for row in rows])
    change(
        tree / SOURCE / "activations/batch-0.jsonl.gz",
        lambda rows: [row.update(index=int(row["index"])) for row in rows],
    )
    change(
        tree / SOURCE / "explanations/batch-0.jsonl.gz",
        lambda rows: [row.update(embedding=[0.1] * 256) for row in rows],
    )
    assert check_tree(tree).problems == [], "extra keys in data, an index that is a number, an embedding"


def test_the_command(tree: Path, run: Any) -> None:
    ran = run("check", "neuronpedia", tree)
    assert ran.code == 0
    assert "32 features" in ran.out
    setting("scores", 2, value=7)(tree)
    ran = run("check", "neuronpedia", tree)
    assert ran.code == 2
    assert "batch-0.jsonl.gz, line 2: 'value' is 7" in ran.out
    assert "1 problem in" in ran.err
    assert '"rule": "score"' in run("check", "neuronpedia", tree, "--json").out


def test_no_tree_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        check_tree(tmp_path / "none")
    assert rules_broken(check_tree(tmp_path).problems) == ["config", "place"]
