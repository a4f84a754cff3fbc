from __future__ import annotations

import asyncio

import pytest

from labeler.errors import RefusedError, UnreadableReply
from labeler.explain.llm import explain_with_llm
from labeler.explain.parse import parse_label
from labeler.llm.client import OpenAILLM
from labeler.recipe import EXPLAINERS, ExplainerConfig
from labeler.records import Context, Label, Source, Split, Usage
from tests.llm.metered import counted, run_counted
from tests.llm.scripted import COST, ScriptedLLM
from tests.stub_server import GOOD, MALFORMED, StubServer

CONFIG = ExplainerConfig("openai", "gpt-x", EXPLAINERS["max-activation"])
CONTEXTS = [
    Context(0, 0, Split.EXPLAIN, Source.TOP, (1, 2, 3), ("Q", "a", " b"), (4.0, 0.0, 2.0)),
    Context(9, 1, Split.EXPLAIN, Source.TOP, (2, 1, 2), ("a", "Q", "a"), (0.0, 4.0, 0.0)),
]


def explain(llm: ScriptedLLM) -> tuple[Label, Usage]:
    return run_counted(llm, lambda metered: explain_with_llm(CONTEXTS, CONFIG, metered))


def test_the_label_is_what_stands_after_the_colon() -> None:
    assert explain(ScriptedLLM(["LABEL: the letter Q"])) == (Label("the letter Q", "openai:gpt-x"), COST)


def test_an_unreadable_label_is_asked_for_once_more_and_paid_twice() -> None:
    llm = ScriptedLLM(["the letter Q", "LABEL: the letter Q"])
    assert explain(llm) == (Label("the letter Q", "openai:gpt-x"), COST + COST)
    assert 'expected one line "LABEL: ..." with 1 to 200 characters' in llm.texts[1]


def test_what_could_not_be_read_twice_is_an_error_and_no_label() -> None:
    with pytest.raises(UnreadableReply) as caught:
        explain(ScriptedLLM(["no", "no again"]))
    assert caught.value.reply == "no again"


def test_every_draw_is_a_request_of_its_own_and_the_first_is_what_it_always_was() -> None:
    llm = ScriptedLLM(["LABEL: a", "no", "LABEL: b"])
    asyncio.run(explain_with_llm(CONTEXTS, CONFIG, llm))
    asyncio.run(explain_with_llm(CONTEXTS, CONFIG, llm, draw=1))
    assert [p.attempt for p in llm.prompts] == [1, 3, 4]


def test_a_refusal_is_not_asked_again() -> None:
    llm = ScriptedLLM([RefusedError("no", usage=COST)])
    with pytest.raises(RefusedError):
        explain(llm)
    assert len(llm.prompts) == 1


def test_the_letter_llm_finds_the_letter_over_http() -> None:
    async def run(server: StubServer) -> tuple[Label, Usage]:
        async with OpenAILLM(server.base_url) as llm:
            return await counted(llm, lambda metered: explain_with_llm(CONTEXTS, CONFIG, metered))

    with StubServer(lambda number, body: MALFORMED if number == 1 else GOOD) as server:
        label, usage = asyncio.run(run(server))
    assert label == Label("`Q` 10, ` b` 5", "openai:gpt-x")
    assert usage.requests == server.n_paid == 2


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("LABEL: x", "x"),
        ("\n LABEL:x \n", "x"),
        ("LABEL: " + "x" * 200, "x" * 200),
        ("LABEL: This feature detects the word `the`", "the word `the`"),
        ("LABEL: the feature mainly fires on ` size` 6-7", "` size` 6-7"),
        ("LABEL: ¶ after `:`", "¶ after `:`"),
    ],
)
def test_readable_labels(reply: str, label: str) -> None:
    assert parse_label(reply) == label


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "   \n",
        "the letter Q",
        "label: the letter Q",
        "Sure!\nLABEL: the letter Q",
        "LABEL: the letter Q\nand the letter R",
        "LABEL: a\nLABEL: b",
        "LABEL:",
        "LABEL:   ",
        "LABEL: " + "x" * 201,
        "LABEL: a\x00b",
        "LABEL: a\u2028b",
        "LABEL: This feature is hard to name",
        "LABEL: this feature detects",
        "**LABEL:** the letter Q",
        '{"label": "the letter Q"}',
    ],
)
def test_unreadable_labels(reply: str) -> None:
    with pytest.raises(UnreadableReply, match="LABEL"):
        parse_label(reply)
