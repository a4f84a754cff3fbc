"""Fuzzing by LLMs that know which tokens the label means."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence

import pytest

from labeler.llm import Message
from labeler.recipe import ScorerConfig
from labeler.records import Context, Label, Score, Source, TokenTable
from labeler.score.fuzzing import fuzzing_items, fuzzing_prompt, score_by_fuzzing
from labeler.score.items import Measure
from labeler.score.lookups import Lookups
from tests.score.knowing import MatchingLLM, context, held_out

CONFIG = ScorerConfig("fuzzing", "m", contexts_per_request=80)
LABEL = Label("the token `Q`", "openai:m")
Q = Label("the token `Q`", "lookup", TokenTable({ord("Q"): 5.0}))


def fuzz(
    llm: MatchingLLM, contexts: Sequence[Context] | None = None, lookups: Lookups | None = None
) -> dict[str, Score]:
    given = held_out() if contexts is None else contexts
    scores = asyncio.run(score_by_fuzzing(LABEL, given, CONFIG, llm, lookups or Lookups(), Measure()))
    return {s.name: s for s in scores}


def knows(text: str) -> float:
    return float("<<Q>>" in text)


def guesses(text: str) -> float:
    return hashlib.sha256(text.encode()).digest()[0] / 255


def n_marked(shown: str) -> int:
    return sum(map(len, re.findall("<<(.*?)>>", shown)))


def test_the_whole_prompt() -> None:
    prompt = fuzzing_prompt(Label("the token `Q` 10", "openai:m"), ["a<<Q>>", "<<b¶>>Q"], CONFIG)
    assert CONFIG.prompt_version == "fuzzing-1"
    assert prompt.messages == (
        Message(
            "user",
            "A feature of a language model fires on some tokens of a text and is silent on the others. Below are "
            "contexts, one a line, each behind its number, with some tokens marked <<like this>>. ¶ is a line break, ⇥ "
            "a tab, · a token of one blank, ·×4 a token of four. Last comes a description of what one feature detects. "
            "In which contexts are the marked tokens those on which it fires? In the others wrong ones are marked. It "
            "may be none of them.\n"
            "\n"
            "Reply with the numbers of the contexts with the right marks in rising order, separated by commas and ended "
            "by 0, and nothing else. Two examples of the form:\n12,15,31,0\n0\n"
            "\n"
            "Contexts:\n11 a<<Q>>\n12 <<b¶>>Q\n"
            "\n"
            "The feature detects: the token `Q` 10",
        ),
    )
    assert (prompt.purpose, prompt.top_logprobs) == ("fuzzing", 5)


def test_every_second_firing_context_has_its_firing_tokens_marked_and_the_others_as_many_silent_ones() -> None:
    contexts = [context(t, i) for i, t in enumerate(("abQQc", "Qde", "fgQhQ", "iQjk"))]
    items = fuzzing_items(contexts)
    assert [i.rival for i in items] == [None, "same", None, "same"]
    assert (items[0].shown, items[2].shown) == ("ab<<QQ>>c", "fg<<Q>>h<<Q>>")
    for item in items:
        fires = [i for i, a in enumerate(item.context.activations) if a > 0]
        assert item.tokens is not None
        assert len(item.tokens) == len(fires) == n_marked(item.shown)
        assert (set(item.tokens) == set(fires)) is item.positive
        assert item.positive or not set(item.tokens) & set(fires)
        assert item.shown.replace("<<", "").replace(">>", "") == item.context.text


def test_strong_and_weak_contexts_are_split_alike() -> None:
    strengths = [10.0 - i for i in range(10)]
    contexts = [
        Context(i, i, c.split, c.source, c.token_ids, c.tokens, tuple(a and s for a in c.activations))
        for i, (c, s) in enumerate(zip([context("abcQ", i) for i in range(10)], strengths, strict=True))
    ]
    assert [i.rival for i in fuzzing_items(contexts)] == [None, "same"] * 5


def test_silent_contexts_have_as_many_marks_as_a_typical_firing_one_and_tempting_ones_first() -> None:
    contexts = [context("QQab", 0), context("QQab", 1), context("cdef", 2, Source.RANDOM)]
    tempting = context("xyQzQ", 3, Source.HARD)
    silent = Context(300, 3, tempting.split, Source.HARD, tempting.token_ids, tempting.tokens, (0.0,) * 5)
    items = fuzzing_items([*contexts, silent])
    assert [i.rival for i in items[2:]] == ["random", "hard"]
    assert [n_marked(i.shown) for i in items] == [2, 2, 2, 2]
    assert items[3].shown == "xy<<Q>>z<<Q>>"


def test_a_feature_that_fires_on_every_token_has_no_wrong_marks_to_show() -> None:
    assert [i.rival for i in fuzzing_items([context("QQ", 0), context("QQQ", 1)])] == [None, None]


def test_a_perfect_reader_and_one_that_is_always_wrong() -> None:
    right, wrong = fuzz(MatchingLLM(knows)), fuzz(MatchingLLM(lambda text: 1 - knows(text)))
    assert set(right) == {"fuzzing", "fuzzing_same", "fuzzing_random", "fuzzing_hard", "fuzzing_auroc"}
    assert {s.value for s in right.values()} == {1.0}
    assert {s.value for s in wrong.values()} == {0.0}
    assert (right["fuzzing"].n, right["fuzzing_same"].n, right["fuzzing"].null_mean) == (40, 20, 0.5)


def test_guesses_are_within_the_interval_of_chance() -> None:
    """In 19 of 20 of many guesses, were the interval exact; 33 of 40 or fewer would come once in a thousand times."""
    covered = 0
    for salt in range(40):
        score = fuzz(MatchingLLM(lambda text, salt=salt: guesses(f"{salt} {text}")), held_out(20))["fuzzing"]  # type: ignore[misc]
        assert score.low is not None
        assert score.high is not None
        covered += score.low <= 0.5 <= score.high
    assert covered > 33


def test_a_reader_that_only_knows_the_topic_fails_where_the_marks_are_wrong() -> None:
    scores = fuzz(MatchingLLM(lambda text: float("Q" in text)))
    assert (scores["fuzzing_random"].value, scores["fuzzing_same"].value) == (1.0, 0.5)


def test_a_look_up_knows_marks_too() -> None:
    auroc = fuzz(MatchingLLM(guesses, with_logprobs=True), lookups=Lookups(Q))["fuzzing_auroc"]
    assert auroc.baseline_token_lookup == 1.0
    assert auroc.value == pytest.approx(0.5, abs=0.3)
