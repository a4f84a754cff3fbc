"""The counts of a block: its features by state, and the tokens and money spent on them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, select

from labeler.records import State, Usage
from labeler.store.jobs.states import DONE_COUNTS, Lease
from labeler.store.tables.jobs import BLOCKS
from labeler.store.tables.label_sets import RESULTS


def done_of(connection: Connection, lease: Lease) -> dict[str, int]:
    """Count the block's features that need no work, by state, from the label set."""
    result = RESULTS.c
    query = select(result.feature_index, result.state).where(
        result.label_set_id == lease.label_set_id,
        result.feature_index.between(lease.first, lease.last),
        result.state.in_(DONE_COUNTS),
    )
    wanted = set(lease.features)
    found = Counter(state for feature, state in connection.execute(query) if feature in wanted)
    return {f"n_{state}": found.get(str(state), 0) for state in DONE_COUNTS}


def bought_anew(usage: Usage, before: tuple[State, Usage] | None) -> Usage:
    """Return the usage of a result that is new.

    Replies that an earlier result of the same feature paid for came out of the ledger, and are not counted again.
    """
    if before is None:
        return usage
    known = before[1]
    if usage.requests <= known.requests:
        return Usage()
    cost = None if usage.cost_usd is None or known.cost_usd is None else max(0.0, usage.cost_usd - known.cost_usd)
    return Usage(
        usage.requests - known.requests,
        max(0, usage.tokens_in - known.tokens_in),
        max(0, usage.tokens_out - known.tokens_out),
        cost,
    )


def counts_after(found: Counter[State], usage: Usage) -> dict[str, Any]:
    """Return the block's counts after results in these states with this usage."""
    return {
        **{f"n_{state}": BLOCKS.c[f"n_{state}"] + found[state] for state in (*DONE_COUNTS, State.FAILED)},
        "requests": BLOCKS.c.requests + usage.requests,
        "tokens_in": BLOCKS.c.tokens_in + usage.tokens_in,
        "tokens_out": BLOCKS.c.tokens_out + usage.tokens_out,
        "cost_usd": None if usage.cost_usd is None else BLOCKS.c.cost_usd + usage.cost_usd,
    }
