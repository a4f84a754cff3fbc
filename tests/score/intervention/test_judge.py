from __future__ import annotations

import json
import re

import pytest

from labeler.errors import ConfigurationError, EndpointError, UnreadableReply
from labeler.llm.prompt import Prompt, Reply
from labeler.recipe import ScorerConfig
from labeler.records import Label, Steered, Trial, Usage
from labeler.score.intervention.judge import (
    INSTRUCTION,
    judge_prompt,
    parse_answers,
    score_by_intervention,
    steered_is_first,
)
from tests.llm.metered import run_counted

CONFIG = ScorerConfig("intervention", "gpt-test")
OTHERS = [Label(f"the letter {c}", "lookup") for c in "abcdefghijklmnopqrstu"]
RIGHT = Label("the letter Q", "openai:m")


def _steered(n: int = 16, feature: int = 3) -> Steered:
    """The feature writes Q, its control Z; the text after each prompt is another."""
    return Steered(feature, tuple(Trial(f"prompt {i}", f"clean {i}", f"xQ{i}Q", f"xZ{i}Z") for i in range(n)))


class Judge:
    """Reads the request as a judge must: a description fits the text that holds more of its last letter."""

    def __init__(self, *, always: str | None = None, replies: list[str] | None = None) -> None:
        self.asked: list[Prompt] = []
        self.always, self.replies = always, replies

    async def complete(self, prompt: Prompt) -> Reply:
        self.asked.append(prompt)
        text = self.replies.pop(0) if self.replies else self._judged(prompt.messages[-1].content)
        return Reply(text, "stop", Usage(1, 100, 10, 0.0), "gpt-test")

    def _judged(self, text: str) -> str:
        text = text.removeprefix(INSTRUCTION)
        pairs = re.findall(r'^A: (".*")\nB: (".*")$', text, re.MULTILINE)
        answers = {}
        for number, description in re.findall(r"^(\d+)\. (.*)$", text.partition("Descriptions\n")[2], re.MULTILINE):
            letter = description[-1]
            fits = [self._fits_a(letter, a, b, i) for i, (a, b) in enumerate(pairs)]
            answers[number] = [i for i, fit in enumerate(fits, start=1) if fit]
        return json.dumps(answers)

    def _fits_a(self, letter: str, a: str, b: str, trial: int) -> bool:
        if self.always:
            return self.always == "A"
        if a.count(letter) == b.count(letter):
            return (ord(letter) * 31 + trial * 17) % 7 < 3  # a guess
        return a.count(letter) > b.count(letter)


def _score(label: Label, steered: Steered, judge: Judge, others=OTHERS):
    return run_counted(judge, lambda metered: score_by_intervention(label, steered, others, CONFIG, metered))


def test_the_label_that_says_what_changed_scores_one_and_others_half():
    score, usage = _score(RIGHT, _steered(), Judge())
    assert (score.name, score.value, score.n, score.null_n) == ("intervention", 1.0, 16, 20)
    assert 0.35 < score.null_mean < 0.65
    assert score.null_p == pytest.approx(1 / 21)
    assert score.null_z > 2
    assert usage.requests == 1


def test_a_wrong_label_scores_near_half_and_the_controls_label_near_zero():
    wrong, _ = _score(Label("the letter M", "openai:m"), _steered(), Judge())
    assert 0.2 < wrong.value < 0.8
    assert wrong.null_p > 0.05
    assert wrong.low < 0.5 < wrong.high
    assert _score(Label("the letter Z", "openai:m"), _steered(), Judge())[0].value == 0.0


@pytest.mark.parametrize("always", ["A", "B"])
def test_a_judge_that_always_says_the_same_gets_one_half(always):
    score, _ = _score(RIGHT, _steered(17), Judge(always=always))
    assert score.value == 0.5


def test_the_order_is_by_hash_and_even():
    firsts = [steered_is_first(f, t) for f in range(50) for t in _steered().trials]
    assert 0.45 < sum(firsts) / len(firsts) < 0.55
    assert firsts == [steered_is_first(f, t) for f in range(50) for t in _steered().trials]


def test_the_prompt_word_for_word():
    trials = [Trial("def f(", "a):\n", "Q):", "Z):"), Trial("x", "y", "QQ", "ZZ")]
    prompt = judge_prompt(trials, [True, False], ["the letter Z", "the letter Q"], CONFIG)
    assert prompt.messages[0].content == (
        f"{INSTRUCTION}\n"
        'Trial 1\nPROMPT: "def f("\nCLEAN: "a):\\n"\nA: "Q):"\nB: "Z):"\n\n'
        'Trial 2\nPROMPT: "x"\nCLEAN: "y"\nA: "ZZ"\nB: "QQ"\n\n'
        "Descriptions\n1. the letter Z\n2. the letter Q"
    )
    assert (prompt.model, prompt.purpose, prompt.temperature) == ("gpt-test", "intervention", 0.0)
    assert CONFIG.prompt_version == "intervention-1"


def test_replies_are_read_to_the_letter():
    assert parse_answers('{"1":[2],"2":[]}', 2, 2) == [(False, True), (False, False)]
    assert parse_answers('```json\n{"1":[1,2]}\n```', 1, 2) == [(True, True)]
    for bad in (
        "A, B",
        "[1]",
        '{"1":[1]}',
        '{"1":[1],"2":[3]}',
        '{"1":[0],"2":[]}',
        '{"1":[1,1],"2":[]}',
        '{"1":"A","2":[]}',
        '{"1":[true],"2":[]}',
        '{"1":[1],"1":[2],"2":[]}',
        '{"1":[1],"2":[],"3":[]}',
        '{"1":[1.0],"2":[]}',
    ):
        with pytest.raises(UnreadableReply, match="trial numbers from 1 to 2"):
            parse_answers(bad, 2, 2)


def test_a_bad_reply_is_asked_again_once_and_then_has_a_reason():
    judge = Judge(replies=["I think A"])
    score, usage = _score(RIGHT, _steered(), judge)
    assert (score.value, usage.requests, len(judge.asked)) == (1.0, 2, 2)
    score, usage = _score(RIGHT, _steered(), Judge(replies=["no", "no"]))
    assert (score.value, score.n_failed, usage.requests) == (None, 16, 2)
    assert score.reason.startswith("malformed")


def test_endpoints_that_fail_give_a_reason_and_those_that_cannot_work_stop_the_run():
    class Failing(Judge):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

        async def complete(self, prompt: Prompt) -> Reply:
            raise self.error

    score, usage = _score(RIGHT, _steered(), Failing(EndpointError("timed out")))
    assert (score.reason, usage) == ("endpoint: timed out", Usage())
    with pytest.raises(ConfigurationError):
        _score(RIGHT, _steered(), Failing(ConfigurationError("no key")))


def test_features_without_texts_have_a_reason_and_cost_nothing():
    judge = Judge()
    score, usage = _score(RIGHT, Steered(3, (), "no strength changes the next token"), judge)
    assert (score.value, score.reason) == (None, "no strength changes the next token")
    same = Steered(3, tuple(Trial(f"p{i}", "c", "same", "same") for i in range(16)))
    assert "after only 0 prompts" in _score(RIGHT, same, judge)[0].reason
    assert (judge.asked, usage) == ([], Usage())


def test_a_null_label_of_the_same_words_is_not_in_the_null():
    score, _ = _score(RIGHT, _steered(), Judge(), [RIGHT, *OTHERS[:19]])
    assert (score.null_n, score.null_p) == (19, None)
