"""Docstrings begin with a sentence that says what the caller gets, and not with a clause that hangs in the air."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("labeler", "workers", "api")
CLAUSE_WORDS = {
    "what",
    "that",
    "of",
    "how",
    "which",
    "whoever",
    "whatever",
    "whichever",
    "who",
    "whose",
    "whom",
    "whether",
    "as",
    "where",
    "wherever",
    "whenever",
    "why",
}
MOST_WORDS = 20


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the first sentence of each docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                line = 1 if isinstance(node, ast.Module) else node.lineno
                yield line, text.split("\n\n")[0].replace("\n", " ").split(". ")[0]


def begins_with_a_clause(sentence: str) -> bool:
    return sentence.split()[0].strip("`\"'(,:").lower() in CLAUSE_WORDS


def test_under_two_percent_of_docstrings_begin_with_a_clause_word():
    found = [
        (f"{path.relative_to(ROOT)}:{line}: {sentence}", begins_with_a_clause(sentence))
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, sentence in docstrings(path.read_text("utf-8"))
    ]
    hanging = [where for where, hangs in found if hangs]
    assert len(hanging) < 0.02 * len(found), f"{len(hanging)} of {len(found)}:\n" + "\n".join(hanging)


def test_a_hanging_clause_is_found():
    source = '"""Of one process."""\n\n\ndef f():\n    """Return the label. What follows is more."""\n'
    assert [begins_with_a_clause(sentence) for _, sentence in docstrings(source)] == [True, False]
