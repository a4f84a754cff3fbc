"""Write what a simulator reads, and turn its reply into strengths. Pure; the version changes with the words.

"Sparse" simulation: several contexts in one request, and a reply that names only the tokens on which it predicts
something. Echoing the tokens, as published methods do, costs thousands of output tokens and breaks when it is cut off.

A token stands on a line of its own. A reply names it by its text (`" main":8`), or by its text and its number among
equal ones (`",#2":3`). With cl100k and Python code that is 2.0 tokens for each token shown, where a number beside each
costs 3.5. A simulator need not count; and a name that fits no token is noticed, while a number that is one off is not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labeler.errors import UnreadableReply
from labeler.llm.prompt import Message, Prompt
from labeler.llm.spelling import LEGEND, alone
from labeler.recipe import SIMULATORS, SimulatorConfig, check_prompt
from labeler.records import Label

Tokens = tuple[str, ...]  # all that a simulator ever sees of a context
Strengths = tuple[float, ...]  # as many as tokens


@dataclass(frozen=True)
class Named:
    """One entry of a reply, with the tokens that it names and their strength."""

    context: int  # place in the request
    tokens: tuple[int, ...]
    strength: float
    single: bool  # names one of its kind, and so goes before an entry that names all of them


def instruction(highest: int) -> str:
    """Return the fixed part of the prompt, for strengths of 0..highest.

    It comes first, then the contexts, the label last. A prefix cache holds the first two for every label that is tried
    on the same contexts.
    """
    read_tens = "" if highest == 10 else f" Where the description says 10, write {highest}."
    return f"""\
A feature of a language model fires on some tokens of a text, with a strength from 0 to {highest}, and is silent (0) \
on most. Below are contexts, one token a line, with the blank that it begins with. {LEGEND} Last comes a description \
of what one feature detects. Predict its strength on every token.{read_tens} The model reads left to right: what \
stands after a token does not change its strength. In many contexts the feature may be silent.

Reply with one JSON object and nothing else: for each context, the tokens with a strength above 0, exactly as their \
line has them, and the strength. A token that stands on several lines is meant on all of them; with #2 behind it, on \
the second alone. Name every context, with {{}} where the feature is silent. The form, for two contexts:
{{"1":{{" name":8,",#2":3}},"2":{{}}}}
"""


# Loose on purpose: it keeps a weak model to the form, and `parse_named` checks the rest.
_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": 0, "maximum": 10},
    },
}

_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*)\n\s*```\Z", re.DOTALL)
_ONE_OF_ITS_KIND = re.compile(r"(.*)#([1-9][0-9]{0,3})", re.DOTALL)


def simulation_prompt(label: Label, contexts: Sequence[Tokens], config: SimulatorConfig) -> Prompt:
    """Write one request for the strengths of a feature with this label on all tokens of `contexts`."""
    model = checked_model(config)
    shown = "\n\n".join(f"Context {n}\n{_lines(tokens)}" for n, tokens in enumerate(contexts, start=1))
    text = f"{instruction(highest_of(config))}\n{shown}\n\nThe feature detects: {label.text}"
    return Prompt(
        model,
        (Message("user", text),),
        config.max_tokens,
        config.temperature,
        _SCHEMA,
        purpose="simulate",
        top_logprobs=config.top_logprobs if config.method == "logprobs" else 0,
    )


def checked_model(config: SimulatorConfig) -> str:
    """Return the model to ask. Raises InputError for a recipe whose prompt this version no longer writes."""
    check_prompt(config.prompt_version, SIMULATORS[config.method])
    if config.model is None:
        raise ValueError(f"simulator {config.name!r} names no model to ask")
    return config.model


def highest_of(config: SimulatorConfig) -> int:
    """Return the highest strength that may be written.

    Many tokenizers write 10 as 1 and 0, and then the probability of a 1 may be meant for either. So where probabilities
    are read, all strengths have one digit.
    """
    return 10 if config.method == "sparse" else 9


def _lines(tokens: Tokens) -> str:
    return "\n".join(map(spelled, tokens))


def spelled(token: str) -> str:
    """Return a token as its line shows it. Some tokens are bytes in the middle of a character, and have no text."""
    return alone(token) or "…"


def shuffled(contexts: Sequence[Tokens]) -> list[int]:
    """Return the order in which contexts are shown: positions in `contexts`, by a hash of the tokens.

    It depends only on the tokens, so that a context's place does not tell how it was chosen. It is the same for every
    label, so that prefix caches work.
    """
    hashes = [hashlib.sha256(json.dumps(["order-1", *tokens]).encode()).digest() for tokens in contexts]
    return sorted(range(len(contexts)), key=hashes.__getitem__)


def batches(order: Sequence[int], size: int) -> list[Sequence[int]]:
    """Cut the order into requests of `size` contexts; the last, shorter one is kept."""
    return [order[start : start + size] for start in range(0, len(order), size)]


def parse_strengths(text: str, contexts: Sequence[Tokens], highest: int = 10) -> list[Strengths]:
    """Return the strengths that a reply gives to the contexts, in their order; `parse_named` describes its form."""
    return strengths_of(parse_named(text, contexts, highest), contexts)


def strengths_of(named: Sequence[Named], contexts: Sequence[Tokens]) -> list[Strengths]:
    """Return the strengths of all tokens; tokens that are not named are predicted silent."""
    strengths = [[0.0] * len(tokens) for tokens in contexts]
    for entry in sorted(named, key=lambda n: n.single):
        for i in entry.tokens:
            strengths[entry.context][i] = entry.strength
    return [tuple(row) for row in strengths]


def parse_named(text: str, contexts: Sequence[Tokens], highest: int = 10) -> list[Named]:
    """Return the entries of a reply, in the order of its text.

    Raises UnreadableReply unless the reply is one JSON object with every context and no other. Every name in it must be
    a token of its context, named once, and every strength a number in 0..highest. A context that is not named has no
    prediction. A name may leave out the blank that its token begins with, or add one.
    """
    reply = _parse_object(text)
    if set(reply) != {str(n) for n in range(1, len(contexts) + 1)}:
        raise UnreadableReply(f'one JSON object with exactly the contexts "1" to "{len(contexts)}"', text)
    return [
        entry
        for number, named in reply.items()
        for entry in _entries(named, int(number), contexts[int(number) - 1], highest, text)
    ]


def _parse_object(text: str) -> dict[str, Any]:
    fenced = _FENCED.match(text.strip())
    try:
        reply = json.loads(fenced[1] if fenced else text, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):
        raise UnreadableReply("one JSON object that names no context and no token twice", text) from None
    if not isinstance(reply, dict):
        raise UnreadableReply("one JSON object", text)
    return reply


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object for `json.loads`. Raises ValueError where a name stands twice in it."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise ValueError("a name stands twice")
    return named


def _entries(named: Any, n: int, tokens: Tokens, highest: int, text: str) -> list[Named]:
    if not isinstance(named, dict):
        raise UnreadableReply(f'a JSON object of tokens and strengths for context "{n}"', text)
    places: dict[str, list[int]] = defaultdict(list)
    for i, token in enumerate(tokens):
        places[spelled(token)].append(i)
    entries: dict[tuple[tuple[int, ...], bool], Named] = {}
    for name, strength in named.items():
        if (found := _find(name, places)) is None:
            raise UnreadableReply(f'tokens of context "{n}" as their lines have them, not {name[:40]!r}', text)
        if found in entries:
            raise UnreadableReply(f'every token of context "{n}" named once, and {name[:40]!r} is named twice', text)
        if not _is_strength(strength, highest):
            raise UnreadableReply(f'strengths from 0 to {highest} in context "{n}"', text)
        entries[found] = Named(n - 1, found[0], float(strength), found[1])
    return list(entries.values())


def _find(name: str, places: Mapping[str, Sequence[int]]) -> tuple[tuple[int, ...], bool] | None:
    """Return the tokens that a name means, and True if it means one of several equal tokens."""
    if (exact := _places_of(name, places)) is not None:
        return tuple(exact), False
    if (numbered := _ONE_OF_ITS_KIND.fullmatch(name)) and (all_of_them := _places_of(numbered[1], places)) is not None:
        which = int(numbered[2])
        return ((all_of_them[which - 1],), True) if which <= len(all_of_them) else None
    return None


def _places_of(name: str, places: Mapping[str, Sequence[int]]) -> Sequence[int] | None:
    shown = spelled(name)  # a simulator may write a line break for its sign
    return next((places[s] for s in (name, shown, f" {shown}", shown.removeprefix(" ")) if s in places), None)


def _is_strength(value: Any, highest: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= highest  # NaN is not
