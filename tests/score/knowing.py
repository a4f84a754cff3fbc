"""LLMs that know the answer, and give it as a test asks: rightly, wrongly, by chance, or in no readable form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import log

from labeler.errors import LLMError
from labeler.llm import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply, TokenChoice
from labeler.records import Context, Source, Split, Usage

COST = Usage(1, 100, 10, 0.5)


def context(
    text: str, document: int, source: Source = Source.TOP, letter: str = "Q", stratum: int | None = None
) -> Context:
    """A context of single characters in which a feature fires on one letter."""
    activations = tuple(5.0 if c == letter else 0.0 for c in text)
    return Context(
        100 * document,
        document,
        Split.HELD_OUT,
        source,
        tuple(map(ord, text)),
        tuple(text),
        activations,
        2.0 if source in (Source.SAMPLED, Source.RANDOM) else None,
        stratum,
    )


def held_out(n: int = 10) -> list[Context]:
    """TOP, SAMPLED, RANDOM and HARD contexts, n of each, one a document; the feature fires on Q."""
    letters = "abcdefghijklmnoprstuvwxyz"
    words = ["".join(letters[(7 * i + k * (1 + i % 5)) % 25] for k in range(12)) for i in range(4 * n)]
    found = []
    for i, word in enumerate(words):
        source = (Source.TOP, Source.SAMPLED, Source.RANDOM, Source.HARD)[i // n]
        fires = source in (Source.TOP, Source.SAMPLED)
        text = f"{word[:4]}Q{word[5:]}" if fires else word
        found.append(context(text, i, source, stratum=1 + i % n if source is Source.SAMPLED else None))
    return found


@dataclass
class MatchingLLM:
    """Answers which numbered contexts match. `says` gives for a context's text how likely a yes is."""

    says: Callable[[str], float]
    spell: Callable[[Sequence[int]], str] = lambda numbers: ",".join(map(str, [*numbers, 0]))
    with_logprobs: bool = False
    fails: Callable[[int], LLMError | None] = lambda number: None
    prompts: list[Prompt] = field(default_factory=list)

    async def complete(self, prompt: Prompt) -> Reply:
        self.prompts.append(prompt)
        if (error := self.fails(len(self.prompts))) is not None:
            raise error
        shown = prompt.messages[-1].content.partition("Contexts:\n")[2].partition("\n\nThe feature detects")[0]
        likely = {int(line[:2]): self.says(line[3:]) for line in shown.split("\n")}
        text = self.spell([number for number, p in likely.items() if p > 0.5])
        choices = tuple(chosen(likely, text)) if self.with_logprobs else None
        return Reply(text, "stop", COST, prompt.model, choices=choices)

    async def echo(self, prompt: EchoPrompt) -> Echo:
        raise NotImplementedError

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        raise NotImplementedError


def chosen(likely: dict[int, float], text: str) -> Iterable[TokenChoice]:
    """The tokens of a list, each number with the alternatives that a model has which says yes with these chances."""
    before = 0
    for token in re.findall(r"\d+|\D", text):
        if not token.isdigit():
            yield TokenChoice(token, -0.01, ((token, -0.01), ("\n", -5.0)))
            continue
        passed, alternatives = 1.0, []
        for number, p in likely.items():
            if number > before:
                alternatives.append((str(number), log(max(passed * p, 1e-30))))
                passed *= 1 - p
        alternatives.append(("0", log(max(passed, 1e-30))))
        ranked = tuple(sorted(alternatives, key=lambda a: -a[1]))
        yield TokenChoice(token, dict(ranked)[token], ranked)
        before = int(token)
