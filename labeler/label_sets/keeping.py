"""Saves results in small groups as they come, but none before the run has shown that it can work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from labeler.label_sets.label_sets import AnyLabelSet
from labeler.label_sets.share import Share
from labeler.records import LabeledFeature, State
from labeler.store import Store

_GROUP = 64
_GROUP_SECONDS = 1.0
_HELD_BACK = 20_000  # results at most; so many without an LLM are worth a label set

Save = Callable[[Sequence[LabeledFeature]], object]


class Keeping:
    """Saves the results of a run, makes its label set with the first of them, and releases the features.

    With an LLM, nothing is saved before the first reply. Silent features make no label set by themselves, and with a
    wrong key or model there would be nothing else in it.
    """

    def __init__(
        self, store: Store, label_set: AnyLabelSet, share: Share, *, asks_llm: bool, save: Save | None = None
    ) -> None:
        self._store, self._label_set, self._share = store, label_set, share
        self._save = save or (lambda results: store.save(label_set.make().id, results))
        self._works = not asks_llm or save is not None or label_set.find() is not None
        self._group: list[LabeledFeature] = []
        self._saved_at = time.monotonic()
        self._saving: set[asyncio.Future[None]] = set()
        self._n_came = 0
        share.before_wait = self._before_wait

    async def add(self, result: LabeledFeature) -> None:
        self._group.append(result)
        self._n_came += 1
        has_reply = result.state is State.LABELED or result.usage.requests > 0
        self._works = self._works or has_reply or len(self._group) >= _HELD_BACK
        if self._works and (len(self._group) >= _GROUP or time.monotonic() - self._saved_at > _GROUP_SECONDS):
            await self.keep()

    async def finish(self, *, failed: bool) -> None:
        """Save the remaining results; where the run has `failed` before the first reply, save none."""
        if self._saving:
            await asyncio.wait(self._saving)
        if not failed:
            await asyncio.to_thread(self._label_set.make)
            self._works = True
        await self.keep()

    async def _before_wait(self) -> None:
        # Two runs that hold their results back would wait for each other. With no request in flight, none will fail.
        self._works = self._works or self._n_came == self._share.n_taken
        await self.keep()

    async def keep(self) -> None:
        """Save the results so far, at once."""
        if not self._works:
            return
        group, self._group = self._group, []
        if group:
            # `finish` waits for this write after a cancellation, so that a group is saved once.
            self._saved_at = time.monotonic()
            saving = asyncio.ensure_future(self._keep_now(group))
            self._saving.add(saving)
            saving.add_done_callback(self._saving.discard)
            await asyncio.shield(saving)

    async def _keep_now(self, group: list[LabeledFeature]) -> None:
        await asyncio.to_thread(self._save, group)
        await self._share.release([result.feature_index for result in group])
