"""One label set being made: what is still missing, labelled, and saved as it comes.

Results are kept in small groups at once, so that a killed run loses at most the group in hand; replies of an LLM are
in the ledger before that. The command line calls this; a worker calls it with the features of its block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from labeler.evidence.store import EvidenceFolder
from labeler.labeling.processes import label_features_in_processes
from labeler.llm import LLM
from labeler.pipeline import NullLabels, label_features
from labeler.recipe import Recipe
from labeler.records import LabeledFeature
from labeler.store import LabelSetInfo, Store

_GROUP = 64
_GROUP_SECONDS = 1.0


@dataclass(frozen=True)
class Run:
    """What one call of `label_missing` did."""

    n_wanted: int
    n_done_before: int
    n_labeled_now: int


async def label_missing(
    folder: EvidenceFolder,
    features: Sequence[int],
    recipe: Recipe,
    llm: LLM | None,
    store: Store,
    label_set: LabelSetInfo,
    *,
    at_once: int = 16,
    null: NullLabels | None = None,
    n_processes: int = 1,
    on_result: Callable[[LabeledFeature], None] = lambda result: None,
    on_start: Callable[[int, int], None] = lambda done, wanted: None,
    go_on: Callable[[], bool] = lambda: True,
    save: Callable[[Sequence[LabeledFeature]], object] | None = None,
) -> Run:
    """Label those of `features` that have no result yet, and save them. Failed ones are tried again.

    Once `go_on()` is False no further feature is begun, and those in hand are finished. A worker gives its own `save`,
    which counts what it keeps. Without an LLM, `n_processes` share the work.
    """
    missing = missing_features(features, store, label_set)
    keep = save or (lambda results: store.save(label_set.id, results))
    on_start(len(features) - len(missing), len(features))
    group: list[LabeledFeature] = []
    saved, n_now = time.monotonic(), 0
    try:
        wanted = takewhile(lambda _: go_on(), missing)
        if llm is None and n_processes > 1:
            results = label_features_in_processes(folder.folder, missing, recipe, n_processes)
        else:
            results = label_features(folder, wanted, recipe, llm, at_once=at_once, null=null)
        async for result in results:
            group.append(result)
            on_result(result)
            if len(group) >= _GROUP or time.monotonic() - saved > _GROUP_SECONDS:
                keep(group)
                group, saved = [], time.monotonic()
            n_now += 1
    finally:
        keep(group)
    return Run(len(features), len(features) - len(missing), n_now)


def missing_features(features: Sequence[int], store: Store, label_set: LabelSetInfo) -> Sequence[int]:
    if len(features) == 0:
        return features
    finished = store.finished(label_set.id, features[0], features[-1] + 1)
    return [f for f in features if f not in finished]
