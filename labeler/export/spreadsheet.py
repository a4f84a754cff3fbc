"""Text that a spreadsheet shows and never runs as a formula, for CSV that people open with a double click.

A cell runs when it begins with one of the signs of SIGNS. A spreadsheet of another country may also cut a line at a semicolon,
and ignore quotes. So a sign counts wherever a cell could begin, and a text has no line breaks or tabs.
"""

from __future__ import annotations

import re

SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20\u2212\ufe62\ufe63\ufe66\ufe6b"
_UNSEEN = "\\s'\"`\u200b-\u200f\u2060\ufeff\u00ad\x00-\x1f\x7f"
_STARTS = re.compile(f"(?P<before>^|[;,|\"'])(?P<unseen>[{_UNSEEN}]*)(?=[{SIGNS}])")
_BREAKS = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def inert(text: str) -> str:
    """Put an apostrophe before each place where a formula could begin, and show breaks and tabs as signs."""
    text = _BREAKS.sub("↵", text).replace("\t", "⇥")
    return _STARTS.sub(r"\g<before>\g<unseen>'", text)
