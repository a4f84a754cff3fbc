"""The spelling of tokens in a prompt: every character is visible, and none breaks the line."""

from __future__ import annotations

# These signs are one token each to most models; prettier ones (⏎, ␣) are three, and a prompt is full of them.
LEGEND = "¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a token of four."

_VISIBLE = {"\n": "¶", "\r": "␍", "\t": "⇥"}
_SIGNS = frozenset(_VISIBLE.values())


def in_line(text: str) -> str:
    """Write the text on one line.

    Line breaks and tabs become signs. Unprintable characters, and signs that stand in the text itself, become escapes.
    Blanks stay as they are.
    """
    if text.isprintable() and _SIGNS.isdisjoint(text):
        return text
    return "".join(_VISIBLE.get(c) or (c if c.isprintable() and c not in _SIGNS else _escaped(c)) for c in text)


def alone(token: str) -> str:
    """Write a single token as in a line, but with a run of blanks as a sign and its length."""
    if token == "·":
        return _escaped(token)
    if token and not token.strip(" "):
        # One sign per blank would cost a token for each step of an indentation.
        return "·" if len(token) == 1 else f"·×{len(token)}"
    return in_line(token)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
