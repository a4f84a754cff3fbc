"""The documents are true: links lead somewhere, commands and options exist, the README is short."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from labeler.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
_BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_readme_is_short_and_fits_a_terminal():
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= 1000
    too_long = [line for line in text.splitlines() if len(line) >= 100 and "<img" not in line]
    assert not too_long


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    dead = [link for link in _links(page) if not _alive(page, link)]
    assert not dead


def test_a_dead_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("[gone](gone.md) and [no such heading](page.md#nowhere) and [here](page.md#here)\n\n## Here\n")
    assert [link for link in _links(page) if not _alive(page, link)] == ["gone.md", "page.md#nowhere"]


def test_the_site_lists_every_page():
    listed = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert [page.name for page in PAGES if page.parent.name == "docs" and page.name not in listed] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path):
    wrong = [problem for line in _commands(page) if (problem := _problem(line))]
    assert not wrong


def test_a_wrong_command_is_found():
    assert _problem("labeler gather --subjekt x") == "labeler gather: no option --subjekt"
    assert _problem("labeler fetch x") == "labeler: no command 'fetch'"
    assert _problem("labeler jobs watch 1 --url http://127.0.0.1:8000") is None


def _links(page: Path) -> list[str]:
    text = _BLOCK.sub("", page.read_text("utf-8"))
    return [a or b for a, b in _LINK.findall(text) if not (a or b).startswith(("http://", "https://", "mailto:"))]


def _alive(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _commands(page: Path) -> Iterator[str]:
    """Each `labeler ...` line of the page's code blocks and tables, without comments, joined where it continues."""
    text = page.read_text("utf-8")
    blocks = [block.replace("\\\n", " ") for block in _BLOCK.findall(text)]
    for line in "\n".join(blocks).splitlines():
        words = line.partition(" #")[0]
        if match := re.search(r"(?:^|/|run --rm api |none )labeler (?=[a-z-])(.*)", words):
            yield f"labeler {match[1]}"
    for quoted in re.findall(r"`(labeler [a-z][^`]*)`", _BLOCK.sub("", text)):
        yield re.sub(r"\\\|\S*", "", quoted)


def _problem(line: str) -> str | None:
    words = [word for word in shlex.split(line)[1:] if word != "..."]
    command: Any = typer.main.get_command(app)  # typer carries a click of its own
    path = "labeler"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = command.commands.get(name)
        if found is None:
            return f"{path}: no command {name!r}"
        command, path = found, f"{path} {name}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return next((f"{path}: no option {option}" for option in given if option not in {*known, "--help"}), None)
