"""Find the places in a text at which a model chose, and the alternatives that it considered there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from labeler.llm.prompt import TokenChoice

_SPLIT = "\ufffd"  # what endpoints show of a token that holds a part of a character


class Choices:
    """The tokens of a text, found by the place at which a word stands in it.

    A model may have said more than the text: an opening token and its thinking before it, an end token after it. Raises
    ValueError where the tokens do not spell the text.
    """

    def __init__(self, choices: Sequence[TokenChoice], text: str) -> None:
        tokens = [c.token for c in choices]
        self._starting_at = {place: choices[i] for i, place in _aligned(tokens, text).items() if tokens[i]}

    def at(self, place: int, word: str) -> TokenChoice | None:
        """Return the choice of the token that is `word` at this place; None where another token holds it.

        Blanks and a line break that joined the word on either side are no part of it.
        """
        found = (self._starting_at.get(place), self._starting_at.get(place - 1))
        return next((choice for choice in found if choice is not None and choice.token.strip() == word), None)

    def starting_at(self, place: int) -> TokenChoice | None:
        return self._starting_at.get(place)


def words_of(choice: TokenChoice) -> Mapping[str, float]:
    """Return the log-probability of each word that might have stood there, stripped of blanks, by its likeliest token."""
    words: dict[str, float] = {}
    for token, logprob in choice.alternatives or ((choice.token, choice.logprob),):
        words[token.strip()] = max(logprob, words.get(token.strip(), logprob))
    return words


def _aligned(tokens: Sequence[str], text: str) -> dict[int, int]:
    """Return the place in the text of each token that has one."""
    starts = [i for i, token in enumerate(tokens) if token and (text.startswith(token) or _SPLIT in token)]
    for start in starts:
        if (places := _aligned_from(start, tokens, text)) is not None:
            return places
    raise ValueError(f"its tokens say {''.join(tokens)[-60:]!r}, and the text ends with {text[-60:]!r}")


def _aligned_from(start: int, tokens: Sequence[str], text: str) -> dict[int, int] | None:
    places: dict[int, int] = {}
    place, i = 0, start
    while place < len(text):
        if i == len(tokens):
            return None
        if text.startswith(tokens[i], place):
            places[i] = place
            place += len(tokens[i])
            i += 1
            continue
        end = i
        while end < len(tokens) and _SPLIT in tokens[end]:
            end += 1
        following = tokens[end] if end < len(tokens) else ""
        split = re.compile(_any_of("".join(tokens[i:end])) + f"(?={re.escape(following)})").match(text, place)
        if end == i or split is None:
            return None
        place, i = split.end(), end
    return places


def _any_of(tokens: str) -> str:
    """Return a pattern for the text behind tokens that hold parts of characters, which are never ASCII."""
    return "".join(
        f"[^\\x00-\\x7f]{{0,{len(part)}}}?" if part.startswith(_SPLIT) else re.escape(part)
        for part in re.split(f"({_SPLIT}+)", tokens)
    )
