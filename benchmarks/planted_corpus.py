"""A corpus in which each feature's meaning is known: topics, concepts, features, labels of graded worth, a simulator that errs.

A concept is a handful of tokens; concepts of one topic keep company. A document mixes a topic or two with words of
everywhere, comes back to a few of its concepts, and says them in bursts. A feature fires on one concept, more strongly
in some documents than in others, sometimes not, and leaks a little onto its topic. So tokens, windows and documents are
all correlated, as in text. Everything that is drawn comes from the generator that is passed in.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from labeler.evidence.batches import batches_of_chunk
from labeler.evidence.merge import merge_shards, shard_folder
from labeler.evidence.shard import ShardFolder
from labeler.evidence.store import EvidenceFolder
from labeler.files import write_json
from labeler.recipe import GatherConfig
from labeler.records import Context
from labeler.subject.corpus import Document
from labeler.subject.sequences import tokenize_corpus
from labeler.subject.vocabulary import save_vocabulary

N_TOPICS, CONCEPTS_A_TOPIC, TOKENS_A_CONCEPT, N_COMMON = 16, 10, 6, 240
N_CONCEPTS = N_TOPICS * CONCEPTS_A_TOPIC
N_CONTENT = N_CONCEPTS * TOKENS_A_CONCEPT
N_TOKENS = N_CONTENT + N_COMMON

GRADES = ("right", "near-synonym", "too broad", "too narrow", "wrong tokens of the topic", "unrelated")


@dataclass(frozen=True)
class Feature:
    concept: int
    strength: np.ndarray  # [vocabulary] activation on each token before the document's and the token's own factor
    leak: np.ndarray  # [vocabulary] the same for tokens of the topic on which it fires weakly, one time in ten


@dataclass(frozen=True)
class Errors:
    """How a simulator errs. Half of each error is a document's luck, shared by its tokens."""

    miss: float = 0.15  # share of the firing tokens predicted silent
    false_alarm: float = 0.004  # share of the other tokens predicted to fire
    noise: float = 0.3  # standard deviation of log strength


def plant_features(n: int, rng: np.random.Generator) -> list[Feature]:
    concepts = rng.choice(N_CONCEPTS, size=n, replace=False)
    return [_feature(int(concept), rng) for concept in concepts]


def _feature(concept: int, rng: np.random.Generator) -> Feature:
    strength, leak = np.zeros(N_TOKENS), np.zeros(N_TOKENS)
    strength[_tokens_of(concept)] = 4.0 * rng.uniform(0.4, 1.0, TOKENS_A_CONCEPT)
    for sibling in _siblings(concept):
        leak[_tokens_of(sibling)] = rng.uniform(0.1, 0.6)
    return Feature(concept, strength, leak)


def label_tables(feature: Feature, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What each label says of each token, 0..10: a right label and wrong ones, by grade."""
    own, siblings = _tokens_of(feature.concept), _siblings(feature.concept)
    right = np.round(10.0 * feature.strength / feature.strength.max())
    near = rng.permutation(siblings)
    far = rng.choice([c for c in range(N_CONCEPTS) if c // CONCEPTS_A_TOPIC != feature.concept // CONCEPTS_A_TOPIC])

    def on(*tokens: np.ndarray) -> np.ndarray:
        """`right` where it speaks of these tokens, the strengths of the concept's own tokens on others."""
        table = np.zeros(N_TOKENS)
        for some in tokens:
            table[some] = right[own][np.arange(len(some)) % len(own)]
        table[np.intersect1d(own, np.concatenate(tokens))] = 0.0
        kept = np.intersect1d(own, np.concatenate(tokens))
        table[kept] = right[kept]
        return table

    shuffled = rng.permutation(own)
    return {
        "right": right,
        "near-synonym": on(shuffled[:4], _tokens_of(near[0])[:3]),
        "too broad": on(own, *(_tokens_of(c) for c in near[:3])),
        "too narrow": on(shuffled[:2]),
        "wrong tokens of the topic": on(*(_tokens_of(c) for c in near[:2])),
        "unrelated": on(_tokens_of(int(far))),
    }


def _tokens_of(concept: int) -> np.ndarray:
    return np.arange(concept * TOKENS_A_CONCEPT, (concept + 1) * TOKENS_A_CONCEPT)


def _siblings(concept: int) -> list[int]:
    first = concept - concept % CONCEPTS_A_TOPIC
    return [c for c in range(first, first + CONCEPTS_A_TOPIC) if c != concept]


@dataclass(frozen=True)
class Text:
    """A corpus as arrays."""

    tokens: np.ndarray  # [n_tokens]
    document: np.ndarray  # [n_tokens]

    @property
    def n_documents(self) -> int:
        return int(self.document[-1]) + 1


def write_text(n_documents: int, rng: np.random.Generator) -> Text:
    length = np.clip(rng.lognormal(5.5, 0.6, n_documents), 60, 1500).astype(np.int64)
    document = np.repeat(np.arange(n_documents), length)
    n = len(document)
    topics = np.where(rng.random((n_documents, 3)) < [1.0, 0.6, 0.3], rng.integers(0, N_TOPICS, (n_documents, 3)), -1)
    # Six concepts that the document comes back to, and how it shares itself among them.
    of_topic = topics[np.arange(n_documents)[:, None], rng.integers(0, 3, (n_documents, 6))]
    of_topic = np.where(of_topic < 0, topics[:, :1], of_topic)
    concepts = of_topic * CONCEPTS_A_TOPIC + rng.integers(0, CONCEPTS_A_TOPIC, of_topic.shape)
    share = rng.dirichlet([0.7] * 6, n_documents).cumsum(axis=1)
    chosen = concepts[document, (rng.random(n)[:, None] > share[document][:, :-1]).sum(axis=1)]
    strayed = rng.random(n) < 0.05
    chosen[strayed] = rng.integers(0, N_CONCEPTS, int(strayed.sum()))
    # Bursts: a content token keeps the concept of the one before it every other time.
    begins = (rng.random(n) < 0.5) | (np.diff(document, prepend=-1) > 0)
    concept = chosen[np.maximum.accumulate(np.where(begins, np.arange(n), 0))]
    rank = np.minimum(rng.geometric(0.3, n) - 1, TOKENS_A_CONCEPT - 1)
    content = concept * TOKENS_A_CONCEPT + rank
    common = N_CONTENT + np.minimum(rng.geometric(0.02, n) - 1, N_COMMON - 1)
    return Text(np.where(rng.random(n) < 0.35, content, common), document)


def activations(feature: Feature, text: Text, rng: np.random.Generator) -> np.ndarray:
    """[n_tokens] raw activations, float32."""
    of_document = rng.lognormal(0.0, 0.25, text.n_documents)[text.document]
    of_token = rng.lognormal(0.0, 0.25, len(text.tokens))
    fires = rng.random(len(text.tokens))
    strong = np.where(fires < 0.9, feature.strength[text.tokens], 0.0)
    weak = np.where(fires < 0.1, feature.leak[text.tokens], 0.0)
    return ((strong + weak) * of_document * of_token).astype(np.float32)


def simulate(table: np.ndarray, text: Text, errors: Errors, rng: np.random.Generator) -> np.ndarray:
    """[n_tokens] what the simulator predicts of a label on 0..10, whole numbers as an LLM writes them."""
    luck = rng.gamma(2.0, 0.5, text.n_documents)[text.document]  # mean 1
    chance = rng.random(len(text.tokens))
    said = table[text.tokens]
    noisy = np.clip(np.round(said * rng.lognormal(0.0, errors.noise, len(said))), 0, 10)
    kept = np.where(chance < errors.miss * (0.5 + 0.5 * luck), 0.0, noisy)
    alarmed = (said == 0) & (chance < errors.false_alarm * (0.5 + 0.5 * luck))
    return np.where(alarmed, rng.integers(1, 11, len(said)), kept)


@dataclass(frozen=True)
class _Planted:
    spec: str
    text: Text

    def documents(self) -> Iterator[Document]:
        for i, ids in enumerate(np.split(self.text.tokens, np.flatnonzero(np.diff(self.text.document)) + 1)):
            yield Document(f"document-{i}", token_ids=ids)


def gather(folder: Path, text: Text, values: np.ndarray, config: GatherConfig) -> EvidenceFolder:
    """The product's own pass over `text`, with `values` [n_features, n_tokens] where the SAE's encoder would be."""
    n_features = len(values)
    sae = SimpleNamespace(n_features=n_features, d_out=1, decoder_directions=lambda: np.zeros((n_features, 1)))
    target: Any = SimpleNamespace(sae=sae)
    corpus = tokenize_corpus(_Planted("planted", text), None, config, folder / "corpus", vocabulary_size=N_TOKENS)
    save_vocabulary(folder, [_spelled(i) for i in range(N_TOKENS)])
    write_json(
        folder / "plan.json",
        {
            "subject": {"id": "planted", "revision": "planted"},
            "hookpoint": "planted",
            "reads": "output",
            "sae": {
                "path": "planted",
                "format": "planted",
                "sha256": "planted",
                "architecture": "planted",
                "d_in": 1,
                "n_features": n_features,
            },
            "corpus": "planted",
            "config": config.to_dict(),
        },
    )
    shard = ShardFolder.open(shard_folder(folder, (1, 1)), corpus, target, config)
    for batch in batches_of_chunk(corpus, 0, config):
        of_batch = np.concatenate([np.arange(s, s + n) for s, n in zip(batch.starts, batch.lengths, strict=True)])
        token, feature = np.nonzero(values[:, of_batch].T)
        shard.state.update(batch, token, feature, values[feature, of_batch[token]])
    shard.checkpoint(1, complete=True)
    return EvidenceFolder(merge_shards(folder))


def _spelled(token: int) -> str:
    """A word of letters alone: near-duplicates are told apart without regard to digits."""
    return " " + "".join(string.ascii_lowercase[token // 26**i % 26] for i in range(3))


def at(context: Context, values: np.ndarray) -> tuple[float, ...]:
    """The part of `values` [n_tokens of the corpus] that lies in a context."""
    return tuple(values[context.token_start : context.token_start + len(context.tokens)].tolist())
