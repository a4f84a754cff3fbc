"""Foreign text inside Markdown: CommonMark and GitHub show it as it is."""

from __future__ import annotations

import re
from typing import Any

_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_SIGNS = re.compile(r"[\\`*{}\[\]|#~!]|(?<!\w)_|_(?!\w)")
_LINKS = re.compile(r"(?<=\w):(?=//)|(?<=[Ww]{3})\.|(?<=[\w.+-])@(?=\w)|(?<=mailto):|(?<=xmpp):")


def escaped(value: Any) -> Any:
    """Escape a text so that no sign in it is Markdown: no cell end, link, image, code or HTML. Numbers stay."""
    if not isinstance(value, str):
        return value
    text = _SIGNS.sub(lambda sign: "\\" + sign[0], _BREAK.sub(" ", value))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A bare address would become a link by itself.
    return _LINKS.sub(lambda sign: f"&#{ord(sign[0])};", text)
