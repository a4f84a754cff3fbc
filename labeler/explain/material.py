"""Collect everything that an explainer may see of a feature, and write contexts for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labeler.llm.prompt import Message, Prompt
from labeler.llm.spelling import alone, in_line
from labeler.quantise import calculate_max_activation, quantise
from labeler.recipe import ExplainerConfig
from labeler.records import Context, OutputTokens, Source


@dataclass(frozen=True)
class Material:
    """Contexts of EXPLAIN documents, and tokens that the decoder promotes; nothing here is ever scored."""

    firing: tuple[Context, ...]  # strongest peak first
    hard: tuple[Context, ...] = ()  # contexts that look alike, in which the feature is silent
    output: OutputTokens | None = None

    @classmethod
    def of(cls, contexts: Sequence[Context], output: OutputTokens | None = None) -> Material:
        firing = [c for c in contexts if c.source is not Source.HARD]
        hard = tuple(c for c in contexts if c.source is Source.HARD)
        return cls(tuple(sorted(firing, key=lambda c: -c.peak)), hard, output)

    @property
    def maximum(self) -> float:
        """Return the highest activation shown: the unit of all strengths in one prompt, as in Bills et al. 2023."""
        return calculate_max_activation(c.activations for c in self.firing)


def marked(context: Context, maximum: float) -> str:
    """Write the context as one line with marks on tokens of strength 1 or more and on a firing peak."""
    strengths = quantise(context.activations, maximum).tolist()
    peak = context.activations.index(context.peak) if context.peak > 0 else None
    return "".join(
        f"<<{alone(token)}|{r}>>" if r >= 1 or i == peak else in_line(token)
        for i, (token, r) in enumerate(zip(context.tokens, strengths, strict=True))
    )


def unmarked(context: Context) -> str:
    return "".join(in_line(token) for token in context.tokens)


def lines(rows: Sequence[str]) -> str:
    return "\n".join(rows) if rows else "(none was found)"


def request(text: str, config: ExplainerConfig, purpose: str = "explain") -> Prompt:
    if config.model is None:
        raise ValueError(f"explainer {config.name!r} names no model to ask")
    return Prompt(config.model, (Message("user", text),), config.max_tokens, config.temperature, purpose=purpose)
