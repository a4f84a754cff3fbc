"""Embeddings of labels, for search by meaning: each text is requested once, and saved as soon as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from labeler.errors import UnreadableReply
from labeler.llm.prices import Prices
from labeler.llm.prompt import LLM, EmbeddingPrompt
from labeler.llm.tokens import token_counter
from labeler.store import Store
from labeler.store.label_sets.embeddings import keep_embeddings, parts_to_embed, place_part, texts_to_embed


@dataclass(frozen=True)
class EmbeddingPlan:
    """The requests, tokens and cost of embedding the labels that have no embedding yet."""

    texts: int
    requests: int
    tokens_in: int
    cost_usd: float | None  # None: the model's price is not known


def plan_embeddings(
    store: Store, label_sets: Sequence[int], model: str, texts_per_request: int, prices: Prices
) -> EmbeddingPlan:
    """Plan the embeddings, without sending a request. A text in two parts is counted twice, and bought once."""
    count, n_texts, n_requests, n_tokens = token_counter().count, 0, 0, 0
    for label_set in label_sets:
        for part in parts_to_embed(store, label_set, model):
            texts = texts_to_embed(store, label_set, part, model)
            n_texts += len(texts)
            n_requests += -(-len(texts) // texts_per_request)
            n_tokens += sum(map(count, texts))
    return EmbeddingPlan(n_texts, n_requests, n_tokens, prices.cost(model, n_tokens, 0))


async def embed_labels(
    store: Store, label_set_id: int, model: str, llm: LLM, texts_per_request: int, on_texts: Callable[[int], None]
) -> int:
    """Embed the labels of a label set that have none, make them searchable, and count the requested texts.

    Works on one part at a time. Raises the LLMError of the first request that failed, after saving the other replies of
    its part.
    """
    n_texts = 0
    for part in await asyncio.to_thread(parts_to_embed, store, label_set_id, model):
        texts = await asyncio.to_thread(texts_to_embed, store, label_set_id, part, model)

        async def ask(some: Sequence[str]) -> None:
            await asyncio.to_thread(keep_embeddings, store, model, some, await embedded(some, model, llm))
            on_texts(len(some))

        cut = [texts[i : i + texts_per_request] for i in range(0, len(texts), texts_per_request)]
        ended = await asyncio.gather(*map(ask, cut), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error
        await asyncio.to_thread(place_part, store, label_set_id, part, model)
        n_texts += len(texts)
    return n_texts


async def embedded(texts: Sequence[str], model: str, llm: LLM) -> np.ndarray:
    """Embed the texts: float32 (len(texts), n_dimensions). Raises LLMError, UnreadableReply among them."""
    reply = await llm.embed(EmbeddingPrompt(model, tuple(texts)))
    lengths = {len(vector) for vector in reply.vectors}
    vectors = np.array(reply.vectors, np.float32) if len(lengths) == 1 else np.empty((0, 0), np.float32)
    if len(vectors) != len(texts) or not vectors.shape[1] or not np.isfinite(vectors).all():
        what = f"{len(reply.vectors)} vectors with {sorted(lengths)} numbers"
        raise UnreadableReply(f"{len(texts)} vectors of one length", what)
    return vectors
