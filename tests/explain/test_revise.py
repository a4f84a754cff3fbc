from __future__ import annotations

from labeler.explain.revise import counter_examples, revision_prompt
from labeler.llm.prompt import Message, Prompt
from labeler.recipe import ExplainerConfig
from labeler.records import Context, Label, Simulation, Source, Split

CONFIG = ExplainerConfig("openai", "gpt-x", "max-activation-2")

WHOLE = """\
A feature of a language model fires on some tokens of a text, with a strength from 0 to 10, and is silent (0) on most. \
Somebody read only a description of what one feature detects, and predicted its strength on every token of new \
contexts. Below are the contexts in which that went wrong. A token is written <<token|t, p>> where it fires, or was \
predicted to: t is its true strength, p the predicted one. ¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a \
token of four.

Correct the description, so that the predictions become right: widen it where the feature fires unpredicted, narrow it \
where it was predicted and is silent, and keep what is right in it. If the contexts show nothing that a better \
description could say, repeat the description as it is.

Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>

It fires, and that was not predicted:
¶<<Q|10, 0>>b
x<<q|5, 1>>

It was predicted, and does not fire:
(none was found)

The description: the letter q"""


def simulation(tokens: str, truth: list[float], predicted: list[float] | None) -> Simulation:
    ids = tuple(range(len(tokens)))
    context = Context(0, 0, Split.HELD_OUT, Source.RANDOM, ids, tuple(tokens), tuple(truth))
    if predicted is None:
        return Simulation(context, None, "refused")
    return Simulation(context, tuple(predicted))


MISSED = simulation("\nQb", [0, 4.0, 0], [0, 0, 0])
HALF = simulation("xq", [0, 2.0], [0, 1.0])
RIGHT = simulation("Qa", [4.0, 0], [9, 0])
INVENTED = simulation("pa", [0, 0], [0, 7.4])
LOST = simulation("Q", [8.0], None)


def test_the_whole_prompt() -> None:
    examples = counter_examples([RIGHT, HALF, MISSED, LOST])
    assert revision_prompt(Label("the letter q", "openai:gpt-x"), examples, CONFIG) == Prompt(
        "gpt-x", (Message("user", WHOLE),), 200, 0.0, None, purpose="revise"
    )


def test_the_worst_come_first_each_on_its_side() -> None:
    examples = counter_examples([HALF, INVENTED, RIGHT, MISSED])
    assert examples.missed == ("¶<<Q|10, 0>>b", "x<<q|5, 1>>")
    assert examples.invented == ("p<<a|0, 7>>",)
    assert len(counter_examples([MISSED] * 9).missed) == 5


def test_a_label_that_predicts_well_has_no_counter_examples() -> None:
    assert not counter_examples([RIGHT, LOST])
    assert not counter_examples([])


def test_truth_is_on_the_scale_of_what_is_shown() -> None:
    """Raw activations of .004 at most are as strong as ten: a unit of the SAE is no unit of a prompt."""
    assert counter_examples([simulation("Qa", [0.004, 0], [0, 0])]).missed == ("<<Q|10, 0>>a",)
