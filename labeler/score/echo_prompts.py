"""Write the text that an all-at-once simulator reads, and turn what it expected there into strengths. Pure.

The layout of Bills et al. 2023: one token per line with its activation, and "unknown" where the activation is asked
for. Nothing is generated: one request says at every "unknown" how likely each number was. The examples and the
instruction are ours, and activations go to 9, so that a number is one token for every tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labeler.llm.prompt import EchoPrompt
from labeler.llm.spelling import LEGEND
from labeler.recipe import SimulatorConfig
from labeler.records import Label
from labeler.score.expected_value import expected_value
from labeler.score.logprobs import Choices, words_of
from labeler.score.simulate_prompts import Strengths, Tokens, checked_model, spelled

UNKNOWN = "unknown"

# In each example the first activations are unknown and the others given, so that a model learns to expect a number
# after one that it was not told.
_EXAMPLES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "vowels, most of all `a` 9, others 5",
        (("b", UNKNOWN), ("a", UNKNOWN), ("n", "0"), ("a", "9"), (" n", "0"), ("e", "5"), ("x", "0"), ("t", "0")),
    ),
    (
        "the name after `def` 8",
        (("return", UNKNOWN), (" x", UNKNOWN), ("def", "0"), (" area", "8"), ("(", "0"), ("side", "0"), ("):", "0")),
    ),
)

INSTRUCTION = f"""\
Each feature of a language model looks for one thing in short texts. Read what the feature detects, and predict its \
activation on each token of the texts.

A text stands between <start> and <end>, one token a line as token<tab>activation. Activations go from 0 to 9, and \
most are 0. {LEGEND}
"""


@dataclass(frozen=True)
class EchoRequest:
    """A text, and where in it the activation of each token of each context is asked for."""

    text: str
    places: tuple[tuple[int, ...], ...]


def echo_text(label: Label, contexts: Sequence[Tokens]) -> EchoRequest:
    text = INSTRUCTION
    for n, (detects, rows) in enumerate(_EXAMPLES, start=1):
        lines = "".join(f"{token}\t{activation}\n" for token, activation in rows)
        text += f"\n{_heading(n, detects)}<start>\n{lines}<end>\n"
    text += f"\n{_heading(len(_EXAMPLES) + 1, label.text)}"
    places = []
    for tokens in contexts:
        text += "<start>\n"
        of_context = []
        for token in tokens:
            text += f"{spelled(token)}\t"
            of_context.append(len(text))
            text += f"{UNKNOWN}\n"
        places.append(tuple(of_context))
        text += "<end>\n"
    return EchoRequest(text, tuple(places))


def _heading(n: int, detects: str) -> str:
    return f"Feature {n} detects: {detects}\nActivations:\n"


def echo_prompt(asked: EchoRequest, config: SimulatorConfig) -> EchoPrompt:
    return EchoPrompt(checked_model(config), asked.text, config.top_logprobs, purpose="simulate")


def read_echo(choices: Choices, asked: EchoRequest) -> list[tuple[Strengths | None, int]]:
    """Return for each context the expected activations, 0..9, and how many of them rest on hardly any probability.

    None where at some token no alternative is a number. Raises ValueError where an activation that is asked for is not
    at the start of one of the server's tokens: then no one can tell how likely each number was.
    """
    return [_expected([_words_at(choices, place) for place in places]) for places in asked.places]


def _words_at(choices: Choices, place: int) -> dict[str, float]:
    choice = choices.starting_at(place)
    if choice is None or not UNKNOWN.startswith(choice.token.strip()):
        raise ValueError(f"no token begins where the activation stands, at character {place}")
    return dict(words_of(choice))


def _expected(alternatives: Sequence[dict[str, float]]) -> tuple[Strengths | None, int]:
    expected = [expected_value(words) for words in alternatives]
    values = [e.value for e in expected]
    n_flagged = sum(e.flagged for e in expected)
    return (None if None in values else tuple(v for v in values if v is not None)), n_flagged
