from __future__ import annotations

import pytest

from labeler.llm.spelling import alone, in_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("def", "def"),
        ("\n    return", "¶    return"),
        ("a\tb\r\n", "a⇥b␍¶"),
        ("\x0c\u2028\x85", "\\x0c\\u2028\\x85"),
        ("\ufffd é 日", "\ufffd é 日"),
        ("\ud800", "\\ud800"),
        ("¶ 7 · ⇥", "\\xb6 7 · \\u21e5"),  # a sign that the text itself holds is not taken for a line break
        ("", ""),
    ],
)
def test_every_character_is_seen_on_one_line(text: str, shown: str) -> None:
    assert in_line(text) == shown
    assert len(in_line(text).splitlines()) <= 1


@pytest.mark.parametrize(
    ("token", "shown"),
    [(" ", "·"), ("    ", "·×4"), (" x", " x"), ("\n\n", "¶¶"), (" \n", " ¶"), ("", ""), ("·", "\\xb7")],
)
def test_a_blank_token_is_seen(token: str, shown: str) -> None:
    assert alone(token) == shown
