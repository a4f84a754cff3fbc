"""Ask a model which contexts match a label, in one request; the reply holds only their numbers.

Detection and fuzzing (Paulo et al. 2024) ask this, each in its own words. The list is in rising order and ends with 0.
So each of its places tells how likely every number up to the next one was: an opinion on each context, from a reply of
two tokens per match. Numbers have two digits. Where a tokenizer writes them as two tokens, the probability of the first
says nothing, and only yes or no is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp

from labeler.errors import LLMError, UnreadableReply
from labeler.llm import LLM, Message, Prompt, Reply, TokenChoice
from labeler.llm.asking import ask_reply, settled
from labeler.recipe import ScorerConfig
from labeler.records import Label
from labeler.score.logprobs import Choices, words_of
from labeler.score.simulate_prompts import batches, shuffled

FIRST = 11  # the number of a request's first context
_END = 0

_LIST = re.compile(r"(?:[1-9][0-9]\s*,\s*)*0")


@dataclass(frozen=True)
class Answer:
    """A model's answer about one context: yes or no, and its probability of saying yes, 0..1."""

    yes: bool | None  # None where no usable reply came
    likely: float | None = None  # 1 or 0 where the endpoint gave no probabilities
    reason: str | None = None  # why there is no answer


def numbered(shown: Sequence[str]) -> str:
    """Return the contexts as a prompt lists them."""
    return "\n".join(f"{n} {text}" for n, text in enumerate(shown, start=FIRST))


def match_prompt(purpose: str, instruction: str, label: Label, shown: Sequence[str], config: ScorerConfig) -> Prompt:
    """Write a request: the instruction, which is the same for all features, the numbered contexts, the label last."""
    text = f"{instruction}{numbered(shown)}\n\nThe feature detects: {label.text}"
    return Prompt(
        config.model,
        (Message("user", text),),
        config.max_tokens,
        config.temperature,
        purpose=purpose,
        top_logprobs=config.top_logprobs,
    )


async def ask_matches(
    shown: Sequence[str], prompt_of: Callable[[Sequence[str]], Prompt], contexts_per_request: int, llm: LLM
) -> list[Answer]:
    """Return an answer for each context, in their order.

    The order in which contexts are shown depends only on their text. A reply that cannot be read is asked for once
    more. If there is still no usable reply, its contexts have no answer and the reason, which is never "no". Raises
    only ConfigurationError, once the requests in flight have ended.
    """
    cut = batches(shuffled([(text,) for text in shown]), contexts_per_request)
    replies = await settled(_ask([shown[i] for i in batch], prompt_of, llm) for batch in cut)
    answers: dict[int, Answer] = {}
    for batch, reply in zip(cut, replies, strict=True):
        answers |= dict(zip(batch, _outcome(reply, len(batch)), strict=True))
    return [answers[i] for i in range(len(shown))]


async def _ask(shown: Sequence[str], prompt_of: Callable[[Sequence[str]], Prompt], llm: LLM) -> list[Answer]:
    return await ask_reply(llm, prompt_of(shown), lambda reply: read_matches(reply, len(shown)))


def _outcome(reply: list[Answer] | LLMError, n: int) -> list[Answer]:
    if isinstance(reply, LLMError):
        return [Answer(None, reason=f"{reply.kind}: {reply}")] * n
    return reply


def read_matches(reply: Reply, n: int) -> list[Answer]:
    """Return the answers of a reply for n contexts. Raises UnreadableReply as `parse_matches` does."""
    matches = parse_matches(reply.text, n)
    likely = None if reply.choices is None else likelihoods(reply.choices, reply.text, n)
    if likely is None:
        return [Answer(i in matches, float(i in matches)) for i in range(n)]
    return [Answer(i in matches, p) for i, p in enumerate(likely)]


def parse_matches(text: str, n: int) -> list[int]:
    """Return the places, from 0, of the contexts that a reply names.

    Raises UnreadableReply unless the reply is only a list of their numbers, in rising order and ended by 0.
    """
    if not _LIST.fullmatch(text.strip()):
        raise UnreadableReply("numbers of contexts separated by commas and ended by 0, such as 12,15,0", text)
    places = [int(number) - FIRST for number in re.findall(r"[0-9]+", text)[:-1]]
    if any(not 0 <= place < n for place in places):
        raise UnreadableReply(f"numbers of contexts from {FIRST} to {FIRST + n - 1}", text)
    if any(after <= before for before, after in pairwise(places)):
        raise UnreadableReply("each number once, in rising order", text)
    return places


def likelihoods(choices: Sequence[TokenChoice], text: str, n: int) -> list[float] | None:
    """Return the probability, 0..1, that the model would name each of n contexts, given its answers before.

    At a place of the list the model chooses the next number; p_j is the probability of the number j there. Once it has
    passed over all before j, it names j with probability p_j / (1 - sum of p_k over the k passed over). The product of
    these over named contexts, and of their complements over others, is the probability of the whole list. None where
    the tokens are not those of the text, or a number is more than one token.
    """
    try:
        at = Choices(choices, text)
    except ValueError:
        return None
    likely = [0.0] * n
    next_place = 0
    for number in re.finditer(r"[0-9]+", text):
        choice = at.at(number.start(), number.group())
        if choice is None:
            return None
        words = {**words_of(choice), number.group(): choice.logprob}
        last = n - 1 if int(number.group()) == _END else int(number.group()) - FIRST
        left = 1.0
        for place in range(next_place, last + 1):
            probability = exp(min(0.0, words[str(place + FIRST)])) if str(place + FIRST) in words else 0.0
            likely[place] = min(1.0, probability / left) if left > 0 else 0.0
            left -= probability
        next_place = last + 1
    return likely
