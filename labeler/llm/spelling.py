"""How a token is written in a prompt, so that every character of it can be seen and none breaks the line."""

from __future__ import annotations

# These signs are one token each to most models; prettier ones (⏎, ␣) are three, and a prompt is full of them.
LEGEND = "¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a token of four."

_VISIBLE = {"\n": "¶", "\r": "␍", "\t": "⇥"}
_SIGNS = frozenset(_VISIBLE.values())


def in_line(text: str) -> str:
    """The text on one line: line breaks and tabs as signs, what cannot be printed and real signs as escapes, blanks as they are."""
    if text.isprintable() and _SIGNS.isdisjoint(text):
        return text
    return "".join(_VISIBLE.get(c) or (c if c.isprintable() and c not in _SIGNS else _escaped(c)) for c in text)


def alone(token: str) -> str:
    """A token that stands by itself: as in a line, and a run of blanks as a sign with its length."""
    if token == "·":
        return _escaped(token)
    if token and not token.strip(" "):
        # One sign a blank would cost a token for each step of an indentation.
        return "·" if len(token) == 1 else f"·×{len(token)}"
    return in_line(token)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
