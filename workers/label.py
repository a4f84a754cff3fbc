"""Work on a block of a label job: its features without a result, labeled and saved as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labeler.label_sets.missing import Run, label_missing
from labeler.label_sets.share import Sharing
from labeler.records import LabeledFeature
from labeler.store.base.counters import Tally
from labeler.store.jobs.states import HolderOrder, Lease
from workers.hold import GRACE, LeaseKeeper, Stopped
from workers.resources import Resources

if TYPE_CHECKING:
    from labeler.llm.client import OpenAILLM

log = logging.getLogger(__name__)

_COUNT_EVERY = 32  # blocks
_LONGEST_WAIT = 30.0  # seconds for features that another run has in hand; then other jobs have their turn


def label(lease: Lease, holding: LeaseKeeper, here: Resources) -> None:
    """Label the block. Returns when it is done or `holding` says to stop; labeled features are saved in either case."""
    llm = here.llm(lease, here.recipe(lease.label_set_id or 0))
    try:
        here.loop.run_until_complete(_label(lease, holding, here, llm))
    finally:
        here.tally.keep()
    if lease.number % _COUNT_EVERY == 0 and lease.label_set_id is not None:
        # Counted as the job goes on: otherwise the figures of a million features would take too long when asked for.
        here.store.count_changes(lease.label_set_id)


async def _label(lease: Lease, holding: LeaseKeeper, here: Resources, llm: OpenAILLM | None) -> None:
    label_set = here.store.label_set(lease.label_set_id or 0)
    folder, recipe = here.evidence_of(lease), here.recipe(label_set.id)
    here.blocks.begin(lease)

    def save(results: Sequence[LabeledFeature]) -> None:
        if results:
            here.blocks.save(lease, results)

    labelling = asyncio.ensure_future(
        label_missing(
            folder,
            lease.features,
            recipe,
            llm,
            here.store,
            label_set,
            at_once=here.settings.concurrency,
            null=here.null(folder, label_set.id),
            go_on=holding.go_on,
            save=save,
            sharing=Sharing(here.settings.lease_seconds, lease.block_id, _LONGEST_WAIT),
        )
    )
    try:
        await _until_done_or_stopped(labelling, holding, llm, here.tally)
    finally:
        if llm is not None:
            await _landed(llm)
        if n_lost := here.ledger.take_lost():
            log.error("%d replies that had arrived could not be kept; they will be asked for again", n_lost)
    if not labelling.cancelled():
        _close(lease, labelling.result(), here)


def _close(lease: Lease, run: Run, here: Resources) -> None:
    """Count the features that others have labeled meanwhile. Raises Stopped where other runs still have some."""
    if run.n_by_others:
        here.blocks.begin(lease)
    if run.n_left:
        raise Stopped(f"{run.n_left} features are in the hands of another run")


async def _landed(llm: OpenAILLM) -> None:
    """Wait for replies in flight: the next worker on this block, maybe elsewhere, must find them in the
    ledger.
    """
    try:
        await asyncio.wait_for(llm.landed(), GRACE)
    except TimeoutError:
        log.warning("some replies are still on their way; they may be asked for again")


async def _until_done_or_stopped(
    labelling: asyncio.Future[Run], holding: LeaseKeeper, llm: OpenAILLM | None, tally: Tally
) -> None:
    n_bought = 0 if llm is None else llm.spent.requests
    while not labelling.done():
        await asyncio.wait({labelling}, timeout=0.1)
        if llm is not None and llm.spent.requests > n_bought:
            n_bought = llm.spent.requests
            holding.progressed()
        if tally.is_due:
            await asyncio.to_thread(tally.keep)
        if holding.order is HolderOrder.LOST or holding.seconds_stopped > GRACE:
            labelling.cancel()
            await asyncio.wait({labelling})
