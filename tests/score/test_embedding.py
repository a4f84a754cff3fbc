"""Embedding similarity with vectors that know the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from labeler.errors import ConfigurationError, EndpointError, LLMError
from labeler.llm import Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply
from labeler.recipe import ScorerConfig
from labeler.records import Label, Score, Usage
from labeler.score.embedding import cosines, score_by_embedding
from labeler.score.items import Measure
from labeler.score.lookups import Lookups
from tests.llm.metered import run_counted
from tests.score.knowing import COST, held_out

CONFIG = ScorerConfig("embedding", "e", contexts_per_request=15)
LABEL = Label("the letter Q", "openai:m")


class EmbeddingLLM:
    def __init__(self, vector: Callable[[str], Sequence[float]], fails: LLMError | None = None) -> None:
        self.vector, self.fails = vector, fails
        self.prompts: list[EmbeddingPrompt] = []

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        self.prompts.append(prompt)
        if self.fails is not None and len(self.prompts) == 2:
            raise self.fails
        return Embeddings(tuple(tuple(self.vector(t)) for t in prompt.texts), COST, prompt.model)

    async def complete(self, prompt: Prompt) -> Reply:
        raise NotImplementedError

    async def echo(self, prompt: EchoPrompt) -> Echo:
        raise NotImplementedError


def score(llm: EmbeddingLLM) -> tuple[dict[str, Score], Usage]:
    scores, usage = run_counted(
        llm, lambda metered: score_by_embedding(LABEL, held_out(), CONFIG, metered, Lookups(), Measure())
    )
    return {s.name: s for s in scores}, usage


def test_contexts_near_the_label_are_told_from_the_others() -> None:
    llm = EmbeddingLLM(lambda text: (3.0, len(text)) if "Q" in text else (len(text), 4.0))
    scores, usage = score(llm)
    assert {n: s.value for n, s in scores.items()} == {
        "embedding_auroc": 1.0,
        "embedding_auroc_random": 1.0,
        "embedding_auroc_hard": 1.0,
    }
    assert usage.requests == 4
    assert [len(p.texts) for p in llm.prompts] == [1, 15, 15, 10]


def test_vectors_that_point_away_are_below_chance_and_equal_ones_at_chance() -> None:
    away = EmbeddingLLM(lambda text: (1.0, 0.0) if text == LABEL.text else (-1.0, 0.0) if "Q" in text else (0.0, 1.0))
    assert score(away)[0]["embedding_auroc"].value == 0.0
    assert score(EmbeddingLLM(lambda text: (1.0, 1.0)))[0]["embedding_auroc"].value == 0.5


def test_what_another_label_asks_for_again_is_the_same_request() -> None:
    one, two = EmbeddingLLM(lambda text: (1.0,)), EmbeddingLLM(lambda text: (1.0,))
    for label, llm in ((LABEL, one), (Label("another", "openai:m"), two)):
        asyncio.run(score_by_embedding(label, held_out(), CONFIG, llm, Lookups(), Measure()))
    assert one.prompts[1:] == two.prompts[1:]
    assert one.prompts[0] != two.prompts[0]


def test_a_failed_request_leaves_no_score_and_the_reason() -> None:
    scores, usage = score(EmbeddingLLM(lambda text: (1.0,), EndpointError("down", usage=COST)))
    assert scores["embedding_auroc"].value is None
    assert scores["embedding_auroc"].reason == "every request failed: endpoint: down"
    assert (scores["embedding_auroc"].n_failed, usage.requests) == (40, 4)


def test_a_model_that_is_not_there_stops_everything() -> None:
    with pytest.raises(ConfigurationError):
        score(EmbeddingLLM(lambda text: (1.0,), ConfigurationError("no such model")))


def test_cosines() -> None:
    assert cosines((3.0, 4.0), [(6.0, 8.0), (-4.0, 3.0), (0.0, 0.0), (0.0, 1.0)]) == pytest.approx([1.0, 0.0, 0.0, 0.8])
