"""The simulator's prompt as whole text, and every way in which its reply can be wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from labeler.errors import InputError, UnreadableReply
from labeler.llm.prompt import Message
from labeler.recipe import SimulatorConfig
from labeler.records import Label
from labeler.score.simulate_prompts import batches, parse_strengths, shuffled, simulation_prompt, spelled

CONFIG = replace(SimulatorConfig.of("gpt-x"), temperature=0.0, max_tokens=2000)
CONTEXTS = [("def", " main", "():\n", "    "), ("7", " 8")]

WHOLE = """\
A feature of a language model fires on some tokens of a text, with a strength from 0 to 10, and is silent (0) on most. \
Below are contexts, one token a line, with the blank that it begins with. ¶ is a line break, ⇥ a tab, · a token of one \
blank, ·×4 a token of four. Last comes a description of what one feature detects. Predict its strength on every token. \
The model reads left to right: what stands after a token does not change its strength. In many contexts the feature \
may be silent.

Reply with one JSON object and nothing else: for each context, the tokens with a strength above 0, exactly as their \
line has them, and the strength. A token that stands on several lines is meant on all of them; with #2 behind it, on \
the second alone. Name every context, with {} where the feature is silent. The form, for two contexts:
{"1":{" name":8,",#2":3},"2":{}}

Context 1
def
 main
():¶
·×4

Context 2
7
 8

The feature detects: the token `main` 10"""


def test_the_whole_prompt() -> None:
    prompt = simulation_prompt(Label("the token `main` 10", "openai:gpt-x"), CONTEXTS, CONFIG)
    assert CONFIG.prompt_version == "sparse-2"
    assert prompt.messages == (Message("user", WHOLE),)
    assert (prompt.model, prompt.max_tokens, prompt.temperature, prompt.purpose) == ("gpt-x", 2000, 0.0, "simulate")
    assert prompt.top_logprobs == 0
    assert json.loads(json.dumps(prompt.json_schema))["type"] == "object"


def test_where_probabilities_are_read_strengths_have_one_digit() -> None:
    config = SimulatorConfig.of("gpt-x", "logprobs")
    prompt = simulation_prompt(Label("the token `main` 10", "openai:gpt-x"), CONTEXTS, config)
    whole = WHOLE.replace("from 0 to 10", "from 0 to 9").replace(
        "on every token.", "on every token. Where the description says 10, write 9."
    )
    assert config.prompt_version == "logprobs-1"
    assert prompt.messages == (Message("user", whole),)
    assert prompt.top_logprobs == 20


def test_a_recipe_whose_words_this_version_no_longer_writes_is_refused() -> None:
    with pytest.raises(InputError, match=r"'sparse-1'.*'sparse-2'"):
        simulation_prompt(Label("x", "openai:m"), CONTEXTS, replace(CONFIG, prompt_version="sparse-1"))


def test_all_labels_share_the_prompt_up_to_the_label() -> None:
    one, two = (
        simulation_prompt(Label(text, "openai:gpt-x"), [("a", "b")], CONFIG).messages[0].content
        for text in ("the letter a", "something else")
    )
    assert one.removesuffix("the letter a") == two.removesuffix("something else")


def test_the_order_depends_on_the_tokens_alone() -> None:
    contexts = [(letter, "x") for letter in "abcdefghij"]
    shown = [contexts[i] for i in shuffled(contexts)]
    backwards = contexts[::-1]
    assert shown == [backwards[i] for i in shuffled(backwards)]
    assert shown not in (contexts, backwards)
    assert sorted(shown) == contexts


def test_tokens_are_not_joined_before_they_are_hashed() -> None:
    contexts = [("ab", "c"), ("a", "bc")]
    assert [contexts[i] for i in shuffled(contexts)] == [contexts[::-1][i] for i in shuffled(contexts[::-1])]


def test_the_last_short_batch_is_kept() -> None:
    assert [list(b) for b in batches(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches([], 3) == []


TWO = [("x", " y", " y"), ("#2", "\n")]


@pytest.mark.parametrize(
    ("reply", "strengths"),
    [
        ('{"1":{"x":8," y":3},"2":{}}', [(8.0, 3.0, 3.0), (0.0, 0.0)]),
        ('{"1":{" y#2":3},"2":{}}', [(0.0, 0.0, 3.0), (0.0, 0.0)]),
        ('{"1":{" y#1":7," y":3},"2":{}}', [(0.0, 7.0, 3.0), (0.0, 0.0)]),
        ('{"1":{" y":3," y#1":0,"x#1":1},"2":{}}', [(1.0, 0.0, 3.0), (0.0, 0.0)]),
        ('{"1":{"y":3,"y#1":2," x":1},"2":{}}', [(1.0, 2.0, 3.0), (0.0, 0.0)]),
        ('{"2":{"¶":10,"#2":4},"1":{}}', [(0.0, 0.0, 0.0), (4.0, 10.0)]),
        ('{"2":{"\\n":10,"#2#1":4},"1":{}}', [(0.0, 0.0, 0.0), (4.0, 10.0)]),
        ('  {"1": {"x": 0, " y": 2.5},\n "2": {}}\n', [(0.0, 2.5, 2.5), (0.0, 0.0)]),
        ('```json\n{"1":{},"2":{"¶":1}}\n```', [(0.0, 0.0, 0.0), (0.0, 1.0)]),
    ],
)
def test_readable_replies(reply: str, strengths: list[tuple[float, ...]]) -> None:
    assert parse_strengths(reply, TWO) == strengths


def test_a_blank_decides_where_both_tokens_are_there() -> None:
    assert parse_strengths('{"1":{"y":3}}', [("y", " y")]) == [(3.0, 0.0)]
    assert parse_strengths('{"1":{" y":3}}', [("y", " y")]) == [(0.0, 3.0)]


def test_a_token_goes_before_a_counted_one_of_the_same_name() -> None:
    assert parse_strengths('{"1":{"a#2":3}}', [("a", "a", "a#2")]) == [(0.0, 0.0, 3.0)]


def test_every_token_can_be_named() -> None:
    """By its text, or by its text and which of its kind it is: in either way each token gets its own strength."""
    tokens = ("", '"', "\\", "\\n", "\n", "  ", " ", "#", "#2", "a", " a", "a", "\t", "\x00", "é", ",", ",")
    shown = [spelled(t) for t in tokens]
    which = [shown[: i + 1].count(s) for i, s in enumerate(shown)]
    named = {
        s if shown.count(s) == 1 else f"{s}#{k}": 1 + i / 2 for i, (s, k) in enumerate(zip(shown, which, strict=True))
    }
    reply = json.dumps({"1": named})
    assert parse_strengths(reply, [tokens]) == [tuple(1 + i / 2 for i in range(len(tokens)))]


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("", "one JSON object"),
        ("no idea", "one JSON object"),
        ('{"1":{"x":8},"2":', "one JSON object"),
        ('{"1":{},"2":{}} I hope this helps', "one JSON object"),
        ("[{},{}]", "one JSON object"),
        ("null", "one JSON object"),
        ("[" * 100_000, "one JSON object"),
        ('{"1":{},"1":{"x":8},"2":{}}', "twice"),
        ('{"1":{"x":8,"x":9},"2":{}}', "twice"),
        ('{"1":{" y":8,"y":9},"2":{}}', "twice"),
        ('{"1":{" y#2":8,"y#2":9},"2":{}}', "twice"),
        ('{"1":{}}', 'contexts "1" to "2"'),
        ('{"1":{},"2":{},"3":{}}', 'contexts "1" to "2"'),
        ('{"0":{},"1":{}}', 'contexts "1" to "2"'),
        ('{"1":{},"2":{},"note":"sure"}', 'contexts "1" to "2"'),
        ('{"1":{},"2":[0,8]}', 'context "2"'),
        ('{"1":{},"2":null}', 'context "2"'),
        ('{"1":{},"2":{"x":5}}', 'tokens of context "2"'),
        ('{"1":{"x y":5},"2":{}}', 'tokens of context "1"'),
        ('{"1":{" y#3":5},"2":{}}', 'tokens of context "1"'),
        ('{"1":{" y#0":5},"2":{}}', 'tokens of context "1"'),
        ('{"1":{"x#":5},"2":{}}', 'tokens of context "1"'),
        ('{"1":{"x#' + "9" * 5000 + '":5},"2":{}}', 'tokens of context "1"'),
        ('{"1":{"x":11},"2":{}}', 'strengths from 0 to 10 in context "1"'),
        ('{"1":{"x":-1},"2":{}}', 'strengths from 0 to 10 in context "1"'),
        ('{"1":{"x":"8"},"2":{}}', 'strengths from 0 to 10 in context "1"'),
        ('{"1":{"x":true},"2":{}}', 'strengths from 0 to 10 in context "1"'),
        ('{"1":{"x":NaN},"2":{}}', 'strengths from 0 to 10 in context "1"'),
        ('{"1":{"x":Infinity},"2":{}}', 'strengths from 0 to 10 in context "1"'),
        ('{"1":{"x":' + "9" * 400 + '},"2":{}}', 'strengths from 0 to 10 in context "1"'),
        ('{"1":{"x":[8]},"2":{}}', 'strengths from 0 to 10 in context "1"'),
    ],
)
def test_unreadable_replies(reply: str, says: str) -> None:
    with pytest.raises(UnreadableReply) as caught:
        parse_strengths(reply, TWO)
    assert says in str(caught.value)


def test_a_strength_above_the_highest_that_was_asked_for_is_unreadable() -> None:
    with pytest.raises(UnreadableReply, match="0 to 9"):
        parse_strengths('{"1":{"x":10},"2":{}}', TWO, highest=9)
