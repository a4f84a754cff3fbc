"""Cards with texts that try to be more than text, rendered."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from labeler.export.card import build_card, card_markdown
from labeler.export.hf import export_dataset
from labeler.export.markdown import escaped
from labeler.recipe import Recipe
from labeler.store import open_store
from tests.results import failed, labeled, manifest

HOSTILE = (
    "a | b",
    "`code` ``more``",
    "<script>alert(1)</script>",
    "two\nlines\r\n\n# heading",
    "[here](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "**bold** _em_ ~~gone~~",
    "http://evil.example/?a=b and www.evil.example",
    "a\\|b",
    "&lt;b&gt; &amp; <b>",
    "<http://evil.example>",
    "ann@evil.example",
    "[ref]: http://evil.example",
    "\u2028# heading",
    "snake_case_name",
)


class Page(HTMLParser):
    """What a reader of the rendered card meets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells:
            self.cells[-1] += data


def rendered(markdown: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is(text: str) -> None:
    page = rendered(f"| | |\n|---|---|\n| name | {escaped(text)} |\n")
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.cells[0].strip() == "name"
    assert page.cells[1].strip() == re.sub(r"\s+", " ", text).strip()
    assert page.cells[2:] == []
    # GitHub makes links of bare addresses, before it looks at entities.
    assert not re.search(r"\w://|www\.|\w@\w", escaped(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_card_holds_no_more_than_text(tmp_path: Path, text: str) -> None:
    plain = manifest()
    said = manifest(
        subject={**plain["subject"], "id": text},
        hookpoint=text,
        corpus={**plain["corpus"], "spec": text},
        names={"sae": text},
    )
    store = open_store(str(tmp_path / "labeler.db"))
    store.label_set_for(said, "/evidence", Recipe.from_names("openai:m"))
    store.save(1, [labeled(0, None), failed(1, text)])
    honest = open_store(str(tmp_path / "honest.db"))
    honest.label_set_for(manifest(), "/evidence", Recipe.from_names("openai:m"))
    honest.save(1, [labeled(0, None), failed(1)])
    hostile, usual = (card_markdown(build_card(s, 1)) for s in (store, honest))
    assert rendered(hostile).tags == rendered(usual).tags
    assert len(rendered(hostile).cells) == len(rendered(usual).cells)
    assert hostile.count("\n") == usual.count("\n")
    export_dataset(store, 1, tmp_path / "set")
    readme = (tmp_path / "set" / "README.md").read_text("utf-8")
    assert rendered(hostile).text.strip().splitlines()[-1] in rendered(readme.partition("\n---\n")[2]).text


def test_numbers_stay_numbers() -> None:
    assert [escaped(value) for value in (3, 0.5, None)] == [3, 0.5, None]
