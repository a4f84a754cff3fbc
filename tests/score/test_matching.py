"""A list of numbers, read strictly, and what the model thought of every number that it passed over."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from math import exp

import pytest

from labeler.errors import ConfigurationError, EndpointError, LLMError, UnreadableReply
from labeler.llm import Message, Prompt, Reply, TokenChoice
from labeler.records import Usage
from labeler.score.matching import Answer, ask_matches, likelihoods, numbered, parse_matches, read_matches
from tests.llm.metered import run_counted
from tests.score.knowing import COST, MatchingLLM, chosen

TEXTS = [f"text {i}" for i in range(7)]


def prompt_of(shown: Sequence[str]) -> Prompt:
    return Prompt("m", (Message("user", f"Contexts:\n{numbered(shown)}\n\nThe feature detects: x"),), 100, 0.0)


def ask(llm: MatchingLLM, texts: list[str] = TEXTS, size: int = 3) -> tuple[list[Answer], Usage]:
    return run_counted(llm, lambda metered: ask_matches(texts, prompt_of, size, metered))


def is_odd(text: str) -> float:
    return float(int(text[-1]) % 2)


def test_contexts_are_numbered_with_two_digits() -> None:
    assert numbered(["a", "b c"]) == "11 a\n12 b c"


@pytest.mark.parametrize(
    ("text", "places"),
    [("0", []), ("11,0", [0]), ("11,13,0", [0, 2]), (" 11, 12 ,13,0\n", [0, 1, 2]), ("12,\n13,0", [1, 2])],
)
def test_readable_lists(text: str, places: list[int]) -> None:
    assert parse_matches(text, 3) == places


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "ended by 0"),
        ("none", "ended by 0"),
        ("11,12", "ended by 0"),
        ("11,12,", "ended by 0"),
        ("11 12 0", "ended by 0"),
        ("[11,12,0]", "ended by 0"),
        ("Contexts 11,12,0", "ended by 0"),
        ("11,12,0 I hope this helps", "ended by 0"),
        ("11,0,12,0", "ended by 0"),
        ("1,2,0", "ended by 0"),
        ("11,-12,0", "ended by 0"),
        ("111,0", "ended by 0"),
        ("14,0", "from 11 to 13"),
        ("10,0", "from 11 to 13"),
        ("12,11,0", "rising"),
        ("11,11,0", "rising"),
        ("11," * 5000 + "0", "rising"),
    ],
)
def test_unreadable_lists(text: str, says: str) -> None:
    with pytest.raises(UnreadableReply, match=says):
        parse_matches(text, 3)


def test_answers_come_in_the_order_of_the_contexts_and_the_last_short_request_is_asked() -> None:
    llm = MatchingLLM(is_odd)
    answers, usage = ask(llm)
    assert [a.yes for a in answers] == [False, True] * 3 + [False]
    assert [a.likely for a in answers] == [0.0, 1.0] * 3 + [0.0]
    assert (len(llm.prompts), usage) == (3, COST + COST + COST)


def test_the_order_in_which_contexts_are_shown_depends_on_their_text_alone() -> None:
    one, two = MatchingLLM(is_odd), MatchingLLM(is_odd)
    ask(one)
    ask(two, TEXTS[::-1])
    shown = [[p.messages[0].content for p in llm.prompts] for llm in (one, two)]
    assert shown[0] == shown[1]
    assert re.findall(r"text \d", "".join(shown[0])) != TEXTS


def test_a_malformed_list_is_asked_for_once_more() -> None:
    llm = MatchingLLM(is_odd)
    good = llm.spell
    llm.spell = lambda numbers: good(numbers) if "could not be read" in llm.prompts[-1].messages[0].content else "hm"
    answers, usage = ask(llm)
    assert [a.yes for a in answers] == [False, True] * 3 + [False]
    assert (len(llm.prompts), usage.requests) == (6, 6)


def test_a_request_that_fails_leaves_its_contexts_without_an_answer_and_with_the_reason() -> None:
    def fails(number: int) -> LLMError | None:
        return EndpointError("down", usage=COST) if number == 2 else None

    answers, usage = ask(MatchingLLM(is_odd, fails=fails))
    unanswered = [a for a in answers if a.yes is None]
    assert unanswered == [Answer(None, None, "endpoint: down")] * 3
    assert [a.yes for a in answers if a.yes is not None] != [False] * 4
    assert usage == COST + COST + COST


def test_a_list_that_stays_malformed_is_no_answer() -> None:
    answers, usage = ask(MatchingLLM(is_odd, spell=lambda numbers: "none of them"))
    assert {a.yes for a in answers} == {None}
    assert all(a.reason is not None and a.reason.startswith("malformed: ") for a in answers)
    assert usage.requests == 6


def test_a_wrong_key_stops_everything() -> None:
    with pytest.raises(ConfigurationError):
        ask(MatchingLLM(is_odd, fails=lambda number: ConfigurationError("bad key") if number == 1 else None))


# What the model thought of each


def chance(text: str) -> float:
    return 0.02 + 0.96 * hashlib.sha256(text.encode()).digest()[0] / 255


@pytest.mark.parametrize("seed", range(20))
def test_the_chances_behind_a_list_are_found_again(seed: int) -> None:
    """A model that says yes to each context with a chance of its own writes a list; the list's tokens give them back."""
    likely = {11 + i: chance(f"{seed} {i}") for i in range(9)}
    text = ",".join(map(str, [*(n for n, p in likely.items() if chance(f"again {seed} {n}") < p), 0]))
    assert likelihoods(list(chosen(likely, text)), text, 9) == pytest.approx(list(likely.values()))


def test_the_chances_of_a_list_multiply_to_the_chance_of_its_tokens() -> None:
    choices = [
        TokenChoice("12", -0.5, (("12", -0.5), ("11", -1.5), ("0", -3.0))),
        TokenChoice(",", 0.0, ((",", 0.0),)),
        TokenChoice("0", -0.6931, (("0", -0.6931), ("13", -0.6931), ("11", -9.0))),
    ]
    likely = likelihoods(choices, "12,0", 3)
    assert likely is not None
    a, b, c = likely
    assert (1 - a) * b * (1 - c) == pytest.approx(exp(-0.5 - 0.6931), rel=1e-3)


def test_without_probabilities_the_answer_itself_ranks() -> None:
    assert read_matches(Reply("12,0", "stop", COST, "m"), 3) == [
        Answer(False, 0.0),
        Answer(True, 1.0),
        Answer(False, 0.0),
    ]


@pytest.mark.parametrize("cut", [["1", "2", ",", "0"], ["12,", "0"], ["13", ",", "0"]])
def test_tokens_that_are_not_whole_numbers_say_nothing_but_yes_and_no(cut: list[str]) -> None:
    choices = tuple(TokenChoice(t, -0.1, ((t, -0.1), ("13", -1.0))) for t in cut)
    answers = read_matches(Reply("12,0", "stop", COST, "m", choices=choices), 3)
    assert [a.likely for a in answers] == [0.0, 1.0, 0.0]
