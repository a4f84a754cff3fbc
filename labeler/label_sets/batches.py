"""Make a label set by batches: rounds of labeling from the ledger, until no reply is missing in it.

A feature needs its label before the questions about the label exist. So features go in rounds: label what the ledger
allows, submit the missing requests, wait, and repeat. Labels and scores are those of `label_missing` on the same
replies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import islice

from labeler.errors import BudgetError, TakenOverError
from labeler.evidence.store import EvidenceFolder
from labeler.explain.needs import check_recipe
from labeler.label_sets.keeping import Keeping
from labeler.label_sets.label_sets import AnyLabelSet, LabelSetAtHand
from labeler.label_sets.missing import Counting, Run, keep_all, missing_features
from labeler.label_sets.share import Hands, Share, Sharing
from labeler.llm import LLM
from labeler.llm.batch import Batches
from labeler.llm.client import OpenAILLM
from labeler.llm.dry import DryLLM
from labeler.pipeline import label_feature
from labeler.recipe import Recipe
from labeler.records import LabeledFeature
from labeler.steps.null import NullLabels
from labeler.steps.read import read_or_failed
from labeler.store import LabelSetInfo, Store

_AT_ONCE = 16

log = logging.getLogger(__name__)


async def label_in_batches(
    folder: EvidenceFolder,
    features: Sequence[int],
    recipe: Recipe,
    llm: OpenAILLM,
    batches: Batches,
    store: Store,
    label_set: LabelSetInfo | AnyLabelSet,
    *,
    on_result: Callable[[LabeledFeature], None] = lambda result: None,
    on_start: Callable[[int, int], None] = lambda done, wanted: None,
    sharing: Sharing | None = None,
) -> Run:
    """Label as `label_missing` does, by batches. The process may be killed at any moment, and the call repeated.

    Raises BudgetError after it has collected and saved all that the budget allowed.
    """
    check_recipe(recipe, folder)
    folder.check_shared()
    wanted = LabelSetAtHand(label_set) if isinstance(label_set, LabelSetInfo) else label_set
    sharing, null, tally = sharing or Sharing(), NullLabels(folder, recipe), Counting(on_result)
    while True:
        missing = missing_features(features, store, wanted.find())
        tally.start(len(features) - len(missing))
        on_start(len(features) - len(missing), len(features))
        share = Share(store, wanted, missing, sharing)
        keeping = Keeping(store, wanted, share, asks_llm=True)

        async def results(share: Share = share, keeping: Keeping = keeping) -> AsyncGenerator[LabeledFeature, None]:
            while some := await _next(share):
                async for result in _rounds(folder, some, recipe, llm, batches, null, keeping):
                    yield result

        try:
            await keep_all(results(), share, keeping, tally)
        except TakenOverError as error:
            tally.n_by_others += share.n_by_others
            log.warning("%s; this run goes on with what is free", error)
        else:
            return tally.run(len(features), share)


async def _next(share: Share) -> list[int]:
    """Take all features that no other run has in hand: larger batches are cheaper."""
    shown: Hands | None = None
    while not (taken := await share.take_all()) and share.n_left:
        shown = await share.wait(shown)
    return taken


async def _rounds(
    folder: EvidenceFolder,
    missing: list[int],
    recipe: Recipe,
    llm: OpenAILLM,
    batches: Batches,
    null: NullLabels,
    keeping: Keeping,
) -> AsyncGenerator[LabeledFeature, None]:
    spent: BudgetError | None = None
    while True:
        await batches.collect()
        is_last, waiting = spent is not None, list[int]()
        todo = iter(missing)
        while group := list(islice(todo, _AT_ONCE)):
            attempts = [(f, DryLLM(llm, batches.failures)) for f in group]
            results = await asyncio.gather(*(_attempt(folder, f, recipe, dry, null) for f, dry in attempts))
            for result in results:
                if result is not None:
                    yield result
            for (feature, dry), outcome in zip(attempts, results, strict=True):
                if outcome is None:
                    waiting.append(feature)
                    spent = spent or await _add(batches, dry)
        if not waiting:
            return
        if is_last and spent is not None:
            raise spent
        await batches.submit()
        await keeping.keep()  # before a wait that may take a day
        missing = waiting


async def _attempt(
    folder: EvidenceFolder, feature: int, recipe: Recipe, dry: DryLLM, null: NullLabels
) -> LabeledFeature | None:
    async def work(llm: LLM) -> LabeledFeature:
        evidence = read_or_failed(folder, feature, recipe)
        return await label_feature(evidence, recipe, llm, null.for_feature(feature))

    return await dry.attempt(work)


async def _add(batches: Batches, dry: DryLLM) -> BudgetError | None:
    try:
        for key, prompt in dry.missing.items():
            await batches.add(key, prompt)
    except BudgetError as error:
        return error
    return None
