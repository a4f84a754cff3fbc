"""Embedding similarity (Paulo et al. 2024), a cheap test: is the label nearer to contexts in which the feature fires?

embedding_auroc                  AUROC of the cosine between label and context, firing against silent ones
embedding_auroc_random, _hard    the same against silent contexts of one kind
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labeler.errors import LLMError, UnreadableReply
from labeler.llm import LLM, EmbeddingPrompt
from labeler.llm.asking import settled
from labeler.recipe import ScorerConfig
from labeler.records import Context, Label, Score
from labeler.score.detection import detection_items
from labeler.score.items import Item, Measure, with_reason
from labeler.score.lookups import Lookups


async def score_by_embedding(
    label: Label, contexts: Sequence[Context], config: ScorerConfig, llm: LLM, lookups: Lookups, measure: Measure
) -> tuple[Score, ...]:
    """Return the scores of the table above, always all of them."""
    items = detection_items(contexts)
    values, reason = await similarities(label, items, config, llm)
    near: Sequence[float | None] = values if values is not None else [None] * len(items)
    scores = (
        measure.auroc("embedding_auroc", items, near, compared=lookups.strongest(items)),
        measure.auroc("embedding_auroc_random", items, near, "random"),
        measure.auroc("embedding_auroc_hard", items, near, "hard"),
    )
    return with_reason(scores, [reason])


async def similarities(
    label: Label, items: Sequence[Item], config: ScorerConfig, llm: LLM
) -> tuple[list[float] | None, str | None]:
    """Return the cosine of each context's text with the label, or the reason why there is none.

    Contexts are embedded apart from the label, so that the ledger has them for every label tried on them.
    """
    texts = tuple(item.context.text for item in items)
    cut = [texts[i : i + config.contexts_per_request] for i in range(0, len(texts), config.contexts_per_request)]
    asked = [EmbeddingPrompt(config.model, part) for part in ((label.text,), *cut)]
    replies = await settled(llm.embed(prompt) for prompt in asked)
    failed: LLMError | None = None
    vectors: list[tuple[float, ...]] = []
    for prompt, reply in zip(asked, replies, strict=True):
        if isinstance(reply, LLMError):
            failed = reply
        else:
            vectors += reply.vectors
            if len(reply.vectors) != len(prompt.texts):
                failed = UnreadableReply(f"{len(prompt.texts)} vectors", f"{len(reply.vectors)} vectors")
    if failed is not None:
        return None, f"{failed.kind}: {failed}"
    return cosines(vectors[0], vectors[1:]), None


def cosines(one: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
    """Return the cosine of one vector with each of others; 0 for a vector of length 0."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(others, dtype=np.float64).reshape(len(others), len(one))
    lengths = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    return [float(x) for x in np.divide(b @ a, lengths, out=np.zeros(len(b)), where=lengths > 0)]
