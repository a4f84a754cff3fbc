"""Simulate with an LLM, which sees the label and the tokens, and must say where the feature fires.

sparse     a chat model names the tokens with a strength above 0
logprobs   the same, and each strength is the mean over what the model considered there
echo       a completions endpoint says at every token how likely each strength was, from one request, without
           writing anything (the all-at-once method of Bills et al. 2023)
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from labeler.errors import ConfigurationError, EndpointError, LLMError
from labeler.llm import LLM, Reply, TokenChoice
from labeler.llm.asking import ask, ask_reply, settled
from labeler.recipe import SimulatorConfig
from labeler.records import Context, Label, Simulation
from labeler.score.echo_prompts import echo_prompt, echo_text, read_echo
from labeler.score.expected_value import expected_value
from labeler.score.logprobs import Choices, words_of
from labeler.score.simulate_prompts import (
    Strengths,
    Tokens,
    batches,
    highest_of,
    parse_named,
    parse_strengths,
    shuffled,
    simulation_prompt,
    strengths_of,
)


@dataclass(frozen=True)
class _Prediction:
    """Predictions for one context; `n_flagged` of them rest on less than a thousandth of the probability."""

    strengths: Strengths | None
    reason: str | None = None
    n_flagged: int = 0


_Answer = Sequence[_Prediction]


async def simulate_with_llm(
    label: Label, contexts: Sequence[Context], config: SimulatorConfig, llm: LLM
) -> tuple[Simulation, ...]:
    """Return the label's predictions for each context, in their order, on a scale of 0..10.

    The contexts are put in requests of `config.contexts_per_request`, sent at the same time. A reply that cannot be
    read is asked for once more. If there is still no usable reply, its contexts come back without prediction and with
    the reason, never as zeros. Raises only ConfigurationError, once the requests in flight have ended.
    """
    tokens = [c.tokens for c in contexts]
    cut = batches(shuffled(tokens), config.contexts_per_request)
    predict = _METHODS[config.method]
    answers = await settled(predict(label, [tokens[i] for i in batch], config, llm) for batch in cut)
    simulations: dict[int, Simulation] = {}
    for batch, answer in zip(cut, answers, strict=True):
        for i, p in zip(batch, _outcome(answer, len(batch)), strict=True):
            simulations[i] = Simulation(contexts[i], p.strengths, p.reason, p.n_flagged)
    return tuple(simulations[i] for i in range(len(contexts)))


def _outcome(answer: _Answer | LLMError, n_contexts: int) -> _Answer:
    """Return predictions, or the reason why a request has none."""
    if isinstance(answer, LLMError):
        return [_Prediction(None, f"{answer.kind}: {answer}")] * n_contexts
    return answer


async def _sparse(label: Label, contexts: Sequence[Tokens], config: SimulatorConfig, llm: LLM) -> _Answer:
    prompt = simulation_prompt(label, contexts, config)
    strengths = await ask(llm, prompt, lambda text: parse_strengths(text, contexts, highest_of(config)))
    return [_Prediction(s) for s in strengths]


async def _logprobs(label: Label, contexts: Sequence[Tokens], config: SimulatorConfig, llm: LLM) -> _Answer:
    prompt = simulation_prompt(label, contexts, config)
    return await ask_reply(llm, prompt, lambda reply: _read_expected(reply, contexts, highest_of(config)))


def _read_expected(reply: Reply, contexts: Sequence[Tokens], highest: int) -> list[_Prediction]:
    """Return the strengths that a reply names, each as the mean over the alternatives at its place.

    A token that the reply does not name is silent, as with `sparse`. The model's alternatives are known only where it
    wrote a number. A number that is not a single digit counts as it is written.
    """
    named = parse_named(reply.text, contexts, highest)
    if reply.choices is None:
        raise _useless("logprobs", "gives no log-probabilities with its replies")
    choices = _aligned(reply.choices, reply.text)
    flagged = [0] * len(contexts)
    for k, (entry, rating) in enumerate(zip(named, _ratings(reply.text), strict=True)):
        if (choice := choices.at(rating.start(), rating.group())) is not None:
            expected = expected_value(words_of(choice))
            flagged[entry.context] += expected.flagged
            if expected.value is not None:
                named[k] = replace(entry, strength=expected.value)
    strengths = strengths_of(named, contexts)
    return [_Prediction(s, n_flagged=n) for s, n in zip(strengths, flagged, strict=True)]


def _ratings(text: str) -> list[re.Match[str]]:
    """Return the numbers of a JSON text, in their order; quoted text is passed over."""
    return [m for m in re.finditer(r'"(?:[^"\\]|\\.)*"|-?[0-9][-+.0-9eE]*', text) if not m.group().startswith('"')]


async def _echo(label: Label, contexts: Sequence[Tokens], config: SimulatorConfig, llm: LLM) -> _Answer:
    asked = echo_text(label, contexts)
    echo = await llm.echo(echo_prompt(asked, config))
    choices = _aligned(echo.tokens, asked.text)
    try:
        read = read_echo(choices, asked)
    except ValueError as error:
        raise _useless("echo", f"reads a text in tokens that do not line up with what is asked: {error}") from None
    reason = f"malformed: no number among the {config.top_logprobs} likeliest tokens somewhere in the context"
    return [_Prediction(s, None if s is not None else reason, n) for s, n in read]


def _aligned(tokens: Sequence[TokenChoice], text: str) -> Choices:
    try:
        return Choices(tokens, text)
    except ValueError as error:  # one strange character may do this: other requests can fare better
        raise EndpointError(f"the endpoint's log-probabilities are not of the text: {error}") from None


def _useless(method: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"the endpoint {why}; simulate by another method than {method!r}, such as 'sparse'")


_METHODS: dict[str, Callable[[Label, Sequence[Tokens], SimulatorConfig, LLM], Awaitable[_Answer]]] = {
    "sparse": _sparse,
    "logprobs": _logprobs,
    "echo": _echo,
}
