"""Tell the whole story, top-down: gather evidence, read it, label a feature. Workers run the same, cut into tasks.

evidence folder = gather_evidence(subject, sae, corpus, config, out)        one pass over the corpus
evidence        = read_evidence(folder, feature_index, recipe)              what one feature did
result          = await label_feature(evidence, recipe, llm, null)          a label, and how far to trust it
results         = label_features(folder, features, recipe, llm)             the same for many, as they are ready
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labeler.evidence.store import EvidenceFolder
from labeler.explain.needs import check_recipe
from labeler.llm import LLM
from labeler.llm.meter import Metered
from labeler.recipe import GatherConfig, Recipe
from labeler.records import FeatureEvidence, Label, LabeledFeature
from labeler.steps.flow import read_then
from labeler.steps.label import label_or_reason
from labeler.steps.null import NullLabels
from labeler.steps.read import read_or_failed

if TYPE_CHECKING:
    from labeler.evidence.progress import Progress
    from labeler.sae import SAE
    from labeler.subject.corpus import Corpus
    from labeler.subject.model import Subject


def gather_evidence(
    subject: Subject,
    sae: SAE,
    corpus: Corpus,
    config: GatherConfig,
    out: Path,
    *,
    hookpoint: str | None = None,
    shard: tuple[int, int] = (1, 1),
    force: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """Read the corpus once and write into `out` what each feature did; a killed pass continues where it was.

    With `shard=(i, n)` only the i-th of n parts is read, and `merge_shards(out)` ends the pass. An SAE that explains too
    little is refused (evidence/self_check.py) unless `force` is given.
    """
    from labeler.evidence.gather_all import gather_for_all  # here, since labels are made without torch
    from labeler.evidence.target import choose_target

    targets = {out: choose_target(subject, sae, hookpoint)}
    gather_for_all(subject, targets, corpus, config, shard=shard, force=force, on_progress=on_progress)
    return out


async def label_feature(
    evidence: FeatureEvidence, recipe: Recipe, llm: LLM | None, null: Sequence[Label]
) -> LabeledFeature:
    """Explain a feature on its EXPLAIN contexts, then test the label on its HELD_OUT contexts.

    `null` holds labels of other features. A feature that cannot be labeled comes back with its reason; only an
    endpoint that cannot work at all raises (ConfigurationError).
    """
    if llm is None:
        return await label_or_reason(evidence, recipe, None, null)
    metered = Metered(llm)
    return replace(await label_or_reason(evidence, recipe, metered, null), usage=metered.spent)


async def label_features(
    folder: EvidenceFolder,
    features: Iterable[int] | AsyncIterable[int],
    recipe: Recipe,
    llm: LLM | None,
    *,
    at_once: int = 16,
    null: NullLabels | None = None,
) -> AsyncGenerator[LabeledFeature, None]:
    """Label many features, `at_once` in flight; results come as they are ready, in any order.

    Give `null` where many calls are about one folder and recipe: learning it takes as long as a hundred features.
    """
    check_recipe(recipe, folder)
    folder.check_shared()
    others = null or NullLabels(folder, recipe)

    async def label(evidence: FeatureEvidence) -> LabeledFeature:
        return await label_feature(evidence, recipe, llm, others.for_feature(evidence.feature_index))

    read = partial(read_or_failed, folder, recipe=recipe)
    async with aclosing(read_then(label, read, features, at_once, in_thread=llm is not None)) as results:
        async for result in results:
            yield result
