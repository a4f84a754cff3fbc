"""Read the label's text from the explainer's reply. Nothing unreadable ever becomes a label."""

from __future__ import annotations

import re

from labeler.errors import UnreadableReply

LONGEST = 200
FORMAT = f'one line "LABEL: ..." with 1 to {LONGEST} characters after the colon'

_PREFIX = "LABEL:"
_SUBJECT = re.compile(r"\A(this|the) (feature|neuron|latent)\b", re.IGNORECASE)
_LEAD_IN = re.compile(
    r"\A(?:this|the) (?:feature|neuron|latent) (?:mainly |mostly |primarily |strongly )?"
    r"(?:detects|fires (?:on|for|at|in)|activates (?:on|for|at|in)|responds to|is active (?:on|for|at|in)) ",
    re.IGNORECASE,
)


def parse_label(text: str) -> str:
    """Return the text after LABEL:, 1-200 printable characters. Raises UnreadableReply.

    The words "This feature detects" say nothing and are taken off; another sentence about "this feature" is turned
    down. A second line is turned down too: cut off, it would leave a label that says less than was meant.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) != 1 or not lines[0].startswith(_PREFIX):
        raise UnreadableReply(FORMAT, text)
    label = _LEAD_IN.sub("", lines[0].removeprefix(_PREFIX).strip())
    if not 1 <= len(label) <= LONGEST or not label.isprintable():
        raise UnreadableReply(FORMAT, text)
    if _SUBJECT.match(label):
        raise UnreadableReply(f'{FORMAT}, which does not start with "This feature"', text)
    return label
