"""The explainer that asks an LLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from labeler.explain.material import Material
from labeler.explain.methods import explanation_prompt
from labeler.explain.parse import parse_label
from labeler.llm import LLM, Prompt
from labeler.llm.asking import ask
from labeler.recipe import ExplainerConfig
from labeler.records import Context, Label, OutputTokens


async def explain_with_llm(
    contexts: Sequence[Context],
    config: ExplainerConfig,
    llm: LLM,
    *,
    output: OutputTokens | None = None,
    draw: int = 0,
) -> Label:
    """Return a label for the feature that fires in `contexts` (of the EXPLAIN split).

    `output` is what the decoder promotes, for the methods that show it; `draw` counts the labels of a best-of-K. A
    reply that cannot be read is asked for once more.
    """
    text = await ask(llm, draw_prompt(contexts, config, output=output, draw=draw), parse_label)
    return Label(text, config.name)


def draw_prompt(
    contexts: Sequence[Context], config: ExplainerConfig, *, output: OutputTokens | None = None, draw: int = 0
) -> Prompt:
    """Write the request for the label number `draw`."""
    prompt = explanation_prompt(Material.of(contexts, output), config)
    # Two draws may show the same (a rare feature, or no contexts at all), and then only chance makes two labels: the
    # second must not find the first one's reply in the ledger. A repaired prompt is one attempt further.
    return replace(prompt, attempt=1 + 2 * draw)
