"""Complete a label set: label the features that are missing, and save each result as it comes.

Results are saved in small groups at once, so that a killed run loses at most one group. LLM replies are in the ledger
before that. Features are claimed before they are labeled, so that any number of runs may work on one label set. The
command line calls this; a worker calls it with the features of its block.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from labeler.errors import TakenOverError
from labeler.evidence.store import EvidenceFolder
from labeler.explain.needs import check_recipe
from labeler.label_sets.keeping import Keeping, Save
from labeler.label_sets.label_sets import AnyLabelSet, LabelSetAtHand
from labeler.label_sets.processes import label_features_in_processes
from labeler.label_sets.share import Share, Sharing
from labeler.llm import LLM
from labeler.llm.guard import guarded_by
from labeler.pipeline import label_features
from labeler.recipe import Recipe
from labeler.records import LabeledFeature
from labeler.steps.null import NullLabels
from labeler.store import LabelSetInfo, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """The counts of one call of `label_missing`."""

    n_wanted: int
    n_done_before: int
    n_labeled_now: int
    n_by_others: int = 0  # labeled by other runs meanwhile
    n_left: int = 0  # not begun, or left to other runs


class Counting:
    """Counts the results of a run, which may begin again, and passes them on."""

    def __init__(self, on_result: Callable[[LabeledFeature], None]) -> None:
        self._on_result = on_result
        self._n_done_before: int | None = None
        self._n_now = self.n_by_others = 0

    def start(self, n_done: int) -> None:
        if self._n_done_before is None:
            self._n_done_before = n_done

    def __call__(self, result: LabeledFeature) -> None:
        self._n_now += 1
        self._on_result(result)

    def run(self, n_wanted: int, share: Share) -> Run:
        n_by_others = self.n_by_others + share.n_by_others
        return Run(n_wanted, self._n_done_before or 0, self._n_now, n_by_others, share.n_left)


async def label_missing(
    folder: EvidenceFolder,
    features: Sequence[int],
    recipe: Recipe,
    llm: LLM | None,
    store: Store,
    label_set: LabelSetInfo | AnyLabelSet,
    *,
    at_once: int = 16,
    null: NullLabels | None = None,
    n_processes: int = 1,
    on_result: Callable[[LabeledFeature], None] = lambda result: None,
    on_start: Callable[[int, int], None] = lambda done, wanted: None,
    go_on: Callable[[], bool] = lambda: True,
    save: Save | None = None,
    sharing: Sharing | None = None,
) -> Run:
    """Label those of `features` that have no result yet, and save them. Failed ones are tried again.

    The run waits for features that another run has in hand. Once `go_on()` is False, it begins no further feature and
    finishes those in hand. A worker passes its own `save`, which counts the saved results. Without an LLM,
    `n_processes` share the work.
    """
    check_recipe(recipe, folder)
    wanted = LabelSetAtHand(label_set) if isinstance(label_set, LabelSetInfo) else label_set
    sharing, tally = sharing or Sharing(), Counting(on_result)
    while True:
        missing = missing_features(features, store, wanted.find())
        tally.start(len(features) - len(missing))
        on_start(len(features) - len(missing), len(features))
        share = Share(store, wanted, missing, sharing, go_on)
        keeping = Keeping(store, wanted, share, asks_llm=llm is not None, save=save)
        try:
            await keep_all(_results(folder, share, recipe, llm, at_once, null, n_processes), share, keeping, tally)
        except TakenOverError as error:
            if sharing.block_id is not None:
                raise
            tally.n_by_others += share.n_by_others
            log.warning("%s; this run goes on with what is free", error)
        else:
            return tally.run(len(features), share)


async def keep_all(
    results: AsyncGenerator[LabeledFeature, None],
    share: Share,
    keeping: Keeping,
    came: Callable[[LabeledFeature], None],
) -> None:
    """Label and save, while this run has the features of `share`. Raises TakenOverError once it has lost them."""
    failed = True
    async with share:
        try:
            with guarded_by(share.check):
                async with aclosing(results):
                    async for result in results:
                        came(result)
                        await keeping.add(result)
            failed = False
        finally:
            await keeping.finish(failed=failed)


def _results(
    folder: EvidenceFolder,
    share: Share,
    recipe: Recipe,
    llm: LLM | None,
    at_once: int,
    null: NullLabels | None,
    n_processes: int,
) -> AsyncGenerator[LabeledFeature, None]:
    if llm is None and n_processes > 1:
        return label_features_in_processes(folder.folder, share.take, recipe, n_processes)
    return label_features(folder, share.one_by_one(), recipe, llm, at_once=at_once, null=null)


def missing_features(features: Sequence[int], store: Store, label_set: LabelSetInfo | None) -> Sequence[int]:
    if len(features) == 0 or label_set is None:
        return features
    finished = store.finished(label_set.id, features[0], features[-1] + 1)
    return [f for f in features if f not in finished]
