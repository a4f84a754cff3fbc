"""Simulation from probabilities: of a reply's ratings, and of the numbers that a completions endpoint expected."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log

import pytest
from tokenizers import Tokenizer

from labeler.bundled import SUBJECT_PATH
from labeler.errors import ConfigurationError
from labeler.llm import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply, TokenChoice
from labeler.llm.client import OpenAILLM
from labeler.recipe import SimulatorConfig
from labeler.records import Context, Label, Simulation, Usage
from labeler.score.echo_prompts import echo_text
from labeler.score.simulate import simulate_with_llm
from tests.llm.metered import run_counted
from tests.score.knowing import COST, context
from tests.stub_server import StubServer

LABEL = Label("`Q` 10, `a` 4", "openai:m")
CONTEXTS = [context(text, n) for n, text in enumerate(("Qua", "b\nd", "aQQ x"))]
WORDS = r"\n|\t|[^\s]+|\s"
Cut = Callable[[str], Sequence[str]]


def by_words(text: str) -> Sequence[str]:
    return re.findall(WORDS, text)


@dataclass
class ExpectingLLM:
    """An endpoint that expects a 9 where a label names the token, and a 0 elsewhere; `cut` is its tokenizer."""

    cut: Cut = by_words
    chances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by token: number -> probability
    prompts: list[EchoPrompt | Prompt] = field(default_factory=list)
    reply: str = ""

    async def echo(self, prompt: EchoPrompt) -> Echo:
        self.prompts.append(prompt)
        token, found = "", []
        for text in self.cut(prompt.text):
            expected = self.chances.get(token, {"0": 0.9}) if text.strip() == "unknown" else {"z": 0.5}
            found.append(TokenChoice(text, -0.5, tuple((word, log(p)) for word, p in expected.items())))
            token = text if text not in ("\t", "\n") else token
        return Echo(tuple(found), COST, prompt.model)

    async def complete(self, prompt: Prompt) -> Reply:
        self.prompts.append(prompt)
        found = []
        for text in self.cut(self.reply):
            expected = self.chances.get(text, {text: 0.9})
            found.append(
                TokenChoice(text, log(max(expected.values())), tuple((w, log(p)) for w, p in expected.items()))
            )
        return Reply(self.reply, "stop", COST, prompt.model, choices=tuple(found) if prompt.top_logprobs else None)

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        raise NotImplementedError


def simulate(
    llm: ExpectingLLM, method: str = "echo", contexts: Sequence[Context] = CONTEXTS, size: int = 2
) -> tuple[tuple[Simulation, ...], Usage]:
    config = replace(SimulatorConfig.of("m", method), contexts_per_request=size)
    return run_counted(llm, lambda metered: simulate_with_llm(LABEL, contexts, config, metered))


# All at once

SURE = {"Q": {"9": 0.8, "8": 0.1}, "a": {"4": 0.3, "3": 0.3, "unknown": 0.3}}


def test_the_whole_text_of_an_all_at_once_simulation() -> None:
    asked = echo_text(Label("the token `main` 8", "openai:m"), [("def", " main", "\n"), ("    ",)])
    assert asked.text == (
        "Each feature of a language model looks for one thing in short texts. Read what the feature detects, and "
        "predict its activation on each token of the texts.\n"
        "\n"
        "A text stands between <start> and <end>, one token a line as token<tab>activation. Activations go from 0 to "
        "9, and most are 0. ¶ is a line break, ⇥ a tab, · a token of one blank, ·×4 a token of four.\n"
        "\n"
        "Feature 1 detects: vowels, most of all `a` 9, others 5\nActivations:\n<start>\n"
        "b\tunknown\na\tunknown\nn\t0\na\t9\n n\t0\ne\t5\nx\t0\nt\t0\n<end>\n"
        "\n"
        "Feature 2 detects: the name after `def` 8\nActivations:\n<start>\n"
        "return\tunknown\n x\tunknown\ndef\t0\n area\t8\n(\t0\nside\t0\n):\t0\n<end>\n"
        "\n"
        "Feature 3 detects: the token `main` 8\nActivations:\n<start>\n"
        "def\tunknown\n main\tunknown\n¶\tunknown\n<end>\n<start>\n·×4\tunknown\n<end>\n"
    )
    lines = [asked.text[:place].splitlines()[-1] for context_ in asked.places for place in context_]
    assert lines == ["def\t", " main\t", "¶\t", "·×4\t"]
    assert all(asked.text[place:].startswith("unknown\n") for context_ in asked.places for place in context_)


def test_every_token_gets_its_expected_activation_in_one_request_for_several_contexts() -> None:
    llm = ExpectingLLM(chances=SURE)
    simulations, usage = simulate(llm)
    q, a = (9 * 0.8 + 8 * 0.1) / 0.9, 3.5
    assert [s.predicted for s in simulations] == [
        pytest.approx((q, 0.0, a)),
        pytest.approx((0.0, 0.0, 0.0)),
        pytest.approx((a, q, q, 0.0, 0.0)),
    ]
    assert [s.context for s in simulations] == CONTEXTS
    assert (usage.requests, len(llm.prompts)) == (2, 2)
    assert {p.top_logprobs for p in llm.prompts} == {20}


def test_another_label_expects_otherwise() -> None:
    simulations, _ = simulate(ExpectingLLM(chances={"u": {"9": 0.9}}))
    assert simulations[0].predicted == (0.0, 9.0, 0.0)


def test_activations_that_the_model_hardly_considered_are_counted() -> None:
    simulations, _ = simulate(ExpectingLLM(chances={"Q": {"9": 0.0009, "unknown": 0.9}}))
    assert [s.n_flagged for s in simulations] == [1, 0, 2]
    assert simulations[0].predicted == (9.0, 0.0, 0.0)


def test_a_context_with_a_token_that_no_number_was_expected_at_has_no_prediction() -> None:
    simulations, _ = simulate(ExpectingLLM(chances={"b": {"unknown": 0.9, "x": 0.1}}))
    assert [s.predicted is None for s in simulations] == [False, True, False]
    assert simulations[1].reason is not None
    assert "no number among the 20 likeliest" in simulations[1].reason


def bytes_and_a_first_token(text: str) -> Sequence[str]:
    return ["<s>", *(p for word in by_words(text) for p in (["\ufffd"] * 3 if word == "¶" else [word]))]


def test_tokenizers_that_line_up() -> None:
    expected = [s.predicted for s in simulate(ExpectingLLM(chances=SURE))[0]]
    assert [s.predicted for s in simulate(ExpectingLLM(bytes_and_a_first_token, SURE))[0]] == expected


def test_a_real_byte_level_tokenizer_lines_up() -> None:
    """It writes the sign of a line break as three parts of a character, and joins blanks and signs as it learnt to."""
    tokenizer = Tokenizer.from_file(str(SUBJECT_PATH / "tokenizer.json"))

    def cut(text: str) -> Sequence[str]:
        return [tokenizer.decode([i], skip_special_tokens=False) for i in tokenizer.encode(text).ids]

    odd = replace(
        context("Q    é\n", 5),
        tokens=("Q", "    ", "é", "\n", "\t'", " ·"),
        token_ids=(1, 2, 3, 4, 5, 6),
        activations=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    )
    assert "\ufffd" in cut("¶")
    simulations, _ = simulate(ExpectingLLM(cut, SURE), contexts=[*CONTEXTS, odd], size=4)
    assert [s.reason for s in simulations] == [None] * 4
    assert simulations[3].predicted == pytest.approx(((9 * 0.8 + 8 * 0.1) / 0.9, 0, 0, 0, 0, 0))
    assert simulations[2].predicted == simulate(ExpectingLLM(chances=SURE))[0][2].predicted


def test_over_http_a_server_whose_tokens_do_not_line_up_is_named() -> None:
    async def run(server: StubServer) -> None:
        async with OpenAILLM(server.base_url) as llm:
            await simulate_with_llm(LABEL, CONTEXTS, SimulatorConfig.of("m", "echo"), llm)

    with StubServer() as server, pytest.raises(ConfigurationError, match="do not line up"):
        asyncio.run(run(server))
    assert [r.path for r in server.requests] == ["/v1/completions"]


def test_a_placeholder_in_two_tokens_is_asked_at_its_first() -> None:
    class Subwords(ExpectingLLM):
        async def echo(self, prompt: EchoPrompt) -> Echo:
            whole = await super().echo(prompt)
            parts = []
            for choice in whole.tokens:
                if choice.token == "unknown":
                    parts += [replace(choice, token="unk"), TokenChoice("nown", -0.1, (("nown", -0.1),))]
                else:
                    parts.append(choice)
            return replace(whole, tokens=tuple(parts))

    assert simulate(Subwords(chances=SURE))[0] == simulate(ExpectingLLM(chances=SURE))[0]


def test_a_tokenizer_that_joins_the_tab_to_what_follows_ends_the_run_and_says_why() -> None:
    def joined(text: str) -> Sequence[str]:
        return re.findall(r"\tunknown|" + WORDS, text)

    with pytest.raises(ConfigurationError, match=r"do not line up .* no token begins .* 'sparse'"):
        simulate(ExpectingLLM(joined, SURE))


def test_tokens_that_are_not_those_of_the_text_are_a_failed_request_and_no_prediction() -> None:
    def lower(text: str) -> Sequence[str]:
        return by_words(text.replace("Qua", "qua").replace("Q\t", "q\t"))

    simulations, usage = simulate(ExpectingLLM(lower, SURE), size=1)
    assert [s.predicted is None for s in simulations] == [True, False, True]
    assert simulations[0].reason is not None
    assert "log-probabilities are not of the text" in simulations[0].reason
    assert usage == COST + COST + COST


# Probabilities of a reply's ratings


def parts(text: str) -> Sequence[str]:
    return re.findall(r"\d|\w+|\W", text)


def test_each_rating_is_the_mean_over_what_the_model_considered() -> None:
    llm = ExpectingLLM(parts, {"9": {"9": 0.6, "7": 0.2, "none": 0.2}}, reply='{"1":{"Q":9,"a":4}}')
    simulations, usage = simulate(llm, "logprobs", CONTEXTS[:1])
    assert simulations[0].predicted == pytest.approx((8.5, 0.0, 4.0))
    assert (usage, simulations[0].n_flagged) == (COST, 0)


def test_digits_in_names_are_no_ratings() -> None:
    llm = ExpectingLLM(parts, {"9": {"9": 0.6, "7": 0.2}}, reply='{"1":{"9":3,"\\"9":1,",#2":9}}')
    weird = replace(context("9x", 0), tokens=("9", '"9', ",", ","), token_ids=(1, 2, 3, 3), activations=(0.0, 0, 0, 1))
    simulations, _ = simulate(llm, "logprobs", [weird])
    assert simulations[0].predicted == pytest.approx((3.0, 1.0, 0.0, 8.5))


def test_a_rating_the_model_hardly_considered_is_flagged_and_one_in_two_tokens_stands_as_written() -> None:
    llm = ExpectingLLM(parts, {"9": {"9": 0.0005, "!": 0.9}}, reply='{"1":{"Q":9,"a":2.5}}')
    simulations, _ = simulate(llm, "logprobs", CONTEXTS[:1])
    assert simulations[0].predicted == pytest.approx((9.0, 0.0, 2.5))
    assert simulations[0].n_flagged == 1


def test_an_endpoint_without_log_probabilities_ends_the_run_and_says_what_to_do() -> None:
    class Silent(ExpectingLLM):
        async def complete(self, prompt: Prompt) -> Reply:
            return replace(await super().complete(prompt), choices=None)

    with pytest.raises(ConfigurationError, match=r"no log-probabilities .* 'sparse'"):
        simulate(Silent(parts, reply='{"1":{}}'), "logprobs", CONTEXTS[:1])


def test_a_malformed_reply_is_asked_for_once_more_and_then_failed() -> None:
    llm = ExpectingLLM(parts, reply='{"1":{"Q":9')
    simulations, usage = simulate(llm, "logprobs", CONTEXTS[:1])
    assert simulations[0].predicted is None
    assert simulations[0].reason is not None
    assert simulations[0].reason.startswith("malformed: ")
    assert (len(llm.prompts), usage) == (2, COST + COST)
