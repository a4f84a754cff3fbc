"""A label set made by batches: rounds of labelling from the ledger, until nothing is missing in it.

A feature needs its label before the questions about the label exist, so it goes in rounds: label what the ledger
allows, submit what it lacks, wait, and again. Labels and scores are those of `label_missing` on the same replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice

from labeler.errors import BudgetError
from labeler.evidence.store import EvidenceFolder
from labeler.explain.needs import check_recipe
from labeler.labeling.missing import Run, missing_features
from labeler.llm import LLM
from labeler.llm.batch import Batches
from labeler.llm.client import OpenAILLM
from labeler.llm.dry import DryLLM
from labeler.pipeline import NullLabels, label_from
from labeler.recipe import Recipe
from labeler.records import LabeledFeature
from labeler.store import LabelSetInfo, Store

_AT_ONCE = 16


async def label_in_batches(
    folder: EvidenceFolder,
    features: Sequence[int],
    recipe: Recipe,
    llm: OpenAILLM,
    batches: Batches,
    store: Store,
    label_set: LabelSetInfo,
    *,
    on_result: Callable[[LabeledFeature], None] = lambda result: None,
    on_start: Callable[[int, int], None] = lambda done, wanted: None,
) -> Run:
    """As `label_missing`, by batches. May be killed at any moment and called again.

    Raises BudgetError once all that the budget allowed has been collected and saved.
    """
    check_recipe(recipe, folder)
    missing = list(missing_features(features, store, label_set))
    n_missing = len(missing)
    on_start(len(features) - n_missing, len(features))
    folder.check_shared()
    null = NullLabels(folder, recipe)
    spent: BudgetError | None = None
    while True:
        await batches.collect()
        is_last, waiting = spent is not None, list[int]()
        todo = iter(missing)
        while group := list(islice(todo, _AT_ONCE)):
            attempts = [(f, DryLLM(llm, batches.failures)) for f in group]
            results = await asyncio.gather(*(_attempt(folder, f, recipe, dry, null) for f, dry in attempts))
            finished = [r for r in results if r is not None]
            store.save(label_set.id, finished)
            for result in finished:
                on_result(result)
            for (feature, dry), outcome in zip(attempts, results, strict=True):
                if outcome is None:
                    waiting.append(feature)
                    spent = spent or await _add(batches, dry)
        if not waiting:
            return Run(len(features), len(features) - n_missing, n_missing)
        if is_last and spent is not None:
            raise spent
        await batches.submit()
        missing = waiting


async def _attempt(
    folder: EvidenceFolder, feature: int, recipe: Recipe, dry: DryLLM, null: NullLabels
) -> LabeledFeature | None:
    async def work(llm: LLM) -> LabeledFeature:
        return await label_from(folder, feature, recipe, llm, null.for_feature(feature))

    return await dry.attempt(work)


async def _add(batches: Batches, dry: DryLLM) -> BudgetError | None:
    try:
        for key, prompt in dry.missing.items():
            await batches.add(key, prompt)
    except BudgetError as error:
        return error
    return None
