"""Jobs and blocks on both databases: who gets what, what a lost attempt may still do, how jobs end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event, select

from labeler.errors import ConflictError, InputError, MismatchError, NotFoundError
from labeler.recipe import Recipe
from labeler.records import LabeledFeature, Usage
from labeler.store import Store, open_store
from labeler.store.jobs.blocks import LOST_AT_MOST, Blocks
from labeler.store.jobs.jobs import Jobs
from labeler.store.jobs.progress import failures_of, progress_of
from labeler.store.jobs.states import BlockState, GatherRequest, HolderOrder, Lease
from labeler.store.tables.jobs import BLOCKS
from labeler.terms import JobKind, JobState
from tests.results import failed, labeled, manifest, silent

LABEL, GATHER = JobKind.LABEL, JobKind.GATHER


@pytest.fixture
def jobs(store: Store) -> Jobs:
    return Jobs(store)


@pytest.fixture
def blocks(store: Store) -> Blocks:
    return Blocks(store)


def evidence(store: Store, n_features: int = 50) -> int:
    known = manifest(hash=f"{n_features:016d}")
    return store.add_evidence(known | {"sae": known["sae"] | {"n_features": n_features}}, "/evidence")


def take(blocks: Blocks, kind: JobKind = LABEL, worker: str = "w") -> Lease:
    lease = blocks.claim(kind, worker)
    assert lease is not None
    return lease


def lose(blocks: Blocks, lease: Lease) -> BlockState | None:
    """As if the holder of this block had died."""
    return next(blocks.take_back(b, "its worker was lost") for b in blocks.beats() if b.block_id == lease.block_id)


def test_every_feature_is_in_exactly_one_block(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store), Recipe(), "0-9,20,22-49")
    taken = [take(blocks) for _ in range(info.n_blocks)]
    assert blocks.claim(LABEL, "w") is None
    features = [f for lease in taken for f in lease.features]
    assert features == [*range(10), 20, *range(22, 50)]
    assert info.n_features == len(features)
    with store.database.reading() as connection:
        assert set(connection.execute(select(BLOCKS.c.owner)).scalars()) == {"w"}


def test_a_million_features_are_accepted_and_leave_room_for_a_small_job(
    store: Store, jobs: Jobs, blocks: Blocks
) -> None:
    evidence_id = evidence(store, 1_000_000)
    info = jobs.submit(evidence_id, Recipe())
    assert info.n_features == 1_000_000
    small = jobs.submit(evidence(store), Recipe(), "0-9")
    first, second = take(blocks), take(blocks)
    assert {first.job_id, second.job_id} == {info.id, small.id}, "the small job does not wait for the large one"
    assert progress_of(store, info.id).counts["pending"] == 1_000_000


def test_jobs_take_turns_even_with_a_single_worker(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    one, two = jobs.submit(evidence(store), Recipe()), jobs.submit(evidence(store), Recipe(seed=1))
    served = []
    for _ in range(6):
        lease = take(blocks)
        served.append(lease.job_id)
        blocks.finish(lease)
    assert served == [one.id, two.id] * 3


def test_priority_goes_before_turns(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    jobs.submit(evidence(store), Recipe())
    urgent = jobs.submit(evidence(store), Recipe(seed=1), priority=0)
    assert [take(blocks).job_id for _ in range(urgent.n_blocks)] == [urgent.id] * urgent.n_blocks
    assert take(blocks).job_id != urgent.id


def test_a_new_job_gets_a_block_back_from_the_one_that_holds_all_workers(
    store: Store, jobs: Jobs, blocks: Blocks
) -> None:
    jobs.submit(evidence(store), Recipe())
    holders = [take(blocks), take(blocks)]
    assert not blocks.make_room(LABEL)
    new = jobs.submit(evidence(store), Recipe(seed=1))
    assert blocks.make_room(LABEL)
    assert not blocks.make_room(LABEL), "one block is enough"
    assert [blocks.renew(lease) for lease in holders] == [HolderOrder.GO_ON, HolderOrder.STOP]
    assert blocks.give_back(holders[1])
    assert take(blocks).job_id == new.id
    assert not blocks.make_room(LABEL)


def test_a_job_with_a_budget_has_one_block_in_hand(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    jobs.submit(evidence(store), Recipe(), budget_tokens=100)
    lease = take(blocks)
    assert blocks.claim(LABEL, "w") is None
    blocks.finish(lease)
    take(blocks)


def test_what_is_saved_is_counted_once(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store), Recipe(), "0-15")
    lease = take(blocks)
    blocks.begin(lease)
    assert blocks.save(lease, [labeled(0), silent(1), failed(2)])
    progress = progress_of(store, info.id)
    assert progress.state is JobState.RUNNING
    assert progress.counts == {"labeled": 1, "silent": 1, "rare": 0, "failed": 1, "pending": 13}
    assert (progress.requests, progress.tokens_in) == (3, 3_000_000_100)
    assert progress.cost_usd is None, "one price is unknown, so the sum is"
    assert progress.errors == {"refused": 1}
    assert [(f.feature_index, f.reason) for f in failures_of(store, info.id)] == [(2, "refused: no")]
    assert failures_of(store, info.id, after=2) == []
    blocks.give_back(lease)
    again = take(blocks)
    blocks.begin(again)
    assert blocks.save(again, [labeled(2, usage=failed(2).usage)])
    assert progress_of(store, info.id).counts == {"labeled": 2, "silent": 1, "rare": 0, "failed": 0, "pending": 13}


def test_what_was_labelled_before_counts_from_the_start_and_costs_nothing(
    store: Store, jobs: Jobs, blocks: Blocks
) -> None:
    info = jobs.submit(evidence(store), Recipe(), "0-15")
    store.save(info.label_set_id or 0, [labeled(3), silent(4), failed(5)])
    blocks.begin(take(blocks))
    progress = progress_of(store, info.id)
    assert progress.counts == {"labeled": 1, "silent": 1, "rare": 0, "failed": 0, "pending": 14}
    assert progress.requests == 0


def test_a_failure_never_replaces_what_another_job_has_labelled(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    evidence_id = evidence(store)
    one, two = jobs.submit(evidence_id, Recipe(), "0-15"), jobs.submit(evidence_id, Recipe(), "5-20")
    mine, theirs = take(blocks), take(blocks)
    for lease in (mine, theirs):
        blocks.begin(lease)
    blocks.save(mine, [labeled(5, text="kept"), failed(6)])
    blocks.save(theirs, [failed(5), silent(6), failed(7)])
    rows = {row["feature_index"]: (row["state"], row["label"]) for row in store.rows(one.label_set_id or 0)}
    assert rows == {5: ("labeled", "kept"), 6: ("silent", None), 7: ("failed", None)}
    assert progress_of(store, two.id).counts == {"labeled": 1, "silent": 1, "rare": 0, "failed": 1, "pending": 13}
    assert [f.feature_index for f in failures_of(store, two.id)] == [7]


def test_a_block_that_is_set_aside_loses_no_label_of_another_job(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    evidence_id = evidence(store)
    poison = jobs.submit(evidence_id, Recipe(), "0-15")
    for _ in range(LOST_AT_MOST):
        lose(blocks, take(blocks))
    other = jobs.submit(evidence_id, Recipe(), "3")
    blocks.save(take(blocks), [labeled(3, text="kept")])
    ((aside, reason),) = blocks.to_set_aside()
    blocks.set_aside(aside, [failed(i, f"lost: {reason}") for i in range(16)])
    row = store.row(other.label_set_id or 0, 3)
    assert row is not None
    assert (row["state"], row["label"]) == ("labeled", "kept")
    counts = progress_of(store, poison.id).counts
    assert counts == {"labeled": 1, "silent": 0, "rare": 0, "failed": 15, "pending": 0}


def test_a_retry_costs_what_it_buys_anew(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    """The replies that a failed feature had come out of the ledger, and are in the usage of its next result."""
    info = jobs.submit(evidence(store), Recipe(), "0-15")

    def attempt(usage: Usage, result: Callable[[int], LabeledFeature]) -> None:
        lease = take(blocks)
        blocks.begin(lease)
        blocks.save(lease, [replace(result(3), usage=usage)])
        blocks.finish(lease)

    def costs() -> tuple[int, int, int, float | None]:
        now = progress_of(store, info.id)
        return now.requests, now.tokens_in, now.tokens_out, now.cost_usd

    attempt(Usage(2, 200, 20, 1.0), failed)
    jobs.retry(info.id)
    attempt(Usage(2, 200, 20, 1.0), failed)
    assert costs() == (2, 200, 20, 1.0)
    jobs.retry(info.id)
    attempt(Usage(3, 300, 25, 1.25), labeled)
    assert costs() == (3, 300, 25, 1.25)


def test_failures_come_by_page_and_kind_whatever_their_words(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    reasons = {1: "refused: no", 3: "no colon", 20: "refused: no", 22: "timeout: late", 31: "none either"}
    info = jobs.submit(evidence(store), Recipe(), "0-15,17,19,20,22-31")
    other = jobs.submit(evidence(store), Recipe(), "18,40-49")
    leases = [take(blocks) for _ in range(info.n_blocks + other.n_blocks)]
    for lease in sorted(leases, key=lambda lease: lease.first):
        failing = [failed(f, reasons.get(f, "other: job")) for f in lease.features if f in reasons or f in (18, 44)]
        blocks.save(lease, failing)
    assert progress_of(store, info.id).errors == {"refused": 2, "timeout": 1, "other": 2}
    assert [(f.feature_index, f.reason) for f in failures_of(store, info.id)] == list(reasons.items())
    assert [f.feature_index for f in failures_of(store, info.id, after=1, limit=2)] == [3, 20]
    assert [f.feature_index for f in failures_of(store, info.id, after=20, limit=2)] == [22, 31]
    assert [f.feature_index for f in failures_of(store, other.id)] == [18, 44]


def test_looking_for_failures_takes_no_longer_for_those_of_other_jobs(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "labeler.db"))
    jobs, blocks = Jobs(store), Blocks(store)
    evidence_id = evidence(store, 4000)
    info = jobs.submit(evidence_id, Recipe(), "1000-3999")
    blocks.save(take(blocks), [failed(1000)])
    n_before = _n_steps(lambda: failures_of(store, info.id))
    store.save(info.label_set_id or 0, [failed(f) for f in range(1000)])
    assert _n_steps(lambda: failures_of(store, info.id)) <= n_before + 1
    store.close()


def _n_steps(ask: Callable[[], object]) -> int:
    """Thousands of steps of SQLite's machine that this takes, the same on any computer."""
    steps: list[int] = []

    def count(connection: Any, _: object) -> None:
        connection.set_progress_handler(lambda: steps.append(1), 1000)

    event.listen(Engine, "connect", count)
    try:
        ask()
    finally:
        event.remove(Engine, "connect", count)
    return len(steps)


def test_a_lost_attempt_can_neither_save_nor_finish(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store), Recipe(), "0-15")
    first = take(blocks)
    assert lose(blocks, first) is BlockState.QUEUED
    second = take(blocks)
    assert (second.block_id, second.attempt) == (first.block_id, 2)
    assert blocks.renew(first) is HolderOrder.LOST
    assert not blocks.save(first, [labeled(0)])
    assert not blocks.finish(first)
    assert not blocks.give_back(first)
    assert store.row(info.label_set_id or 0, 0) is None
    assert blocks.save(second, [labeled(0)])
    assert blocks.finish(second)
    assert not blocks.finish(second)
    assert jobs.get(info.id).state is JobState.DONE


def test_a_sign_of_life_keeps_the_block(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    jobs.submit(evidence(store), Recipe(), "0-15")
    lease = take(blocks)
    (old,) = blocks.beats()
    assert blocks.renew(lease) is HolderOrder.GO_ON
    assert blocks.take_back(old, "silent") is None
    assert blocks.finish(lease)


def test_a_poisonous_block_is_set_aside_and_the_job_ends(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store), Recipe(), "0-31")
    poison, good = take(blocks), take(blocks)
    blocks.save(poison, [labeled(0)])
    states = [lose(blocks, poison)]
    while states[-1] is BlockState.QUEUED:
        states.append(lose(blocks, take(blocks)))
    assert states == [BlockState.QUEUED] * (LOST_AT_MOST - 1) + [BlockState.FAILED]
    blocks.finish(good)
    assert jobs.get(info.id).state is JobState.RUNNING, "its features are not marked yet"
    ((lease, reason),) = blocks.to_set_aside()
    blocks.set_aside(lease, [failed(i, f"lost: {reason}") for i in range(1, 16)])
    assert blocks.to_set_aside() == []
    ended = jobs.get(info.id)
    assert ended.state is JobState.FAILED
    assert ended.reason == "1 of 2 blocks failed; block 0: its worker was lost"
    assert progress_of(store, info.id).errors == {"lost": 15}
    assert jobs.retry(info.id).state is JobState.QUEUED
    assert take(blocks).block_id == poison.block_id


def test_losses_between_which_something_was_saved_do_not_add_up(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    jobs.submit(evidence(store), Recipe(), "0-15")
    for feature in range(2 * LOST_AT_MOST):
        lease = take(blocks)
        blocks.save(lease, [labeled(feature)])
        assert lose(blocks, lease) is BlockState.QUEUED


def test_pause_resume_cancel_retry(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store), Recipe())
    lease = take(blocks)
    assert jobs.pause(info.id, "key revoked").reason == "key revoked"
    assert blocks.renew(lease) is HolderOrder.STOP
    assert blocks.save(lease, [labeled(0)]), "what was paid for is kept"
    assert blocks.give_back(lease)
    assert blocks.claim(LABEL, "w") is None
    assert blocks.waiting(LABEL, 10) == 0
    assert jobs.resume(info.id).state is JobState.QUEUED
    lease = take(blocks)
    assert jobs.cancel(info.id).state is JobState.CANCELLED
    assert blocks.renew(lease) is HolderOrder.STOP
    blocks.finish(lease)
    assert blocks.claim(LABEL, "w") is None
    with pytest.raises(
        ConflictError, match=rf"job {info.id} is cancelled and cannot be paused: only .* queued or running"
    ):
        jobs.pause(info.id)
    assert jobs.retry(info.id).state is JobState.QUEUED
    while (lease := blocks.claim(LABEL, "w")) is not None:
        blocks.finish(lease)
    assert jobs.get(info.id).state is JobState.DONE
    assert jobs.retry(info.id).state is JobState.DONE, "nothing had failed"


def test_retry_takes_up_failed_features_only(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store), Recipe(), "0-31")
    for _ in range(info.n_blocks):
        lease = take(blocks)
        blocks.save(lease, [(failed if f == 20 else labeled)(f) for f in lease.features])
        blocks.finish(lease)
    assert jobs.get(info.id).state is JobState.DONE, "a refusal fails a feature, not the job"
    jobs.retry(info.id)
    lease = take(blocks)
    assert 20 in lease.features
    assert blocks.claim(LABEL, "w") is None


def test_a_restart_of_everything_frees_all_blocks_without_blame(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store), Recipe())
    for _ in range(LOST_AT_MOST + 1):
        taken = [take(blocks) for _ in range(info.n_blocks)]
        jobs.begin_again()
    assert not blocks.finish(taken[0])
    assert blocks.waiting(LABEL, 100) == info.n_blocks


def test_gathering_steps_wait_for_each_other(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit_gather(GatherRequest("subject", "sae", "corpus", "/out", n_shards=2))
    prepare = take(blocks, GATHER)
    assert blocks.claim(GATHER, "w") is None
    blocks.finish(prepare)
    shards = [take(blocks, GATHER), take(blocks, GATHER)]
    assert [s.number for s in shards] == [1, 2]
    blocks.finish(shards[0])
    assert blocks.claim(GATHER, "w") is None, "a shard is out"
    blocks.finish(shards[1])
    merge = take(blocks, GATHER)
    assert (merge.stage, GatherRequest.from_dict(merge.gather or {}).n_shards) == (2, 2)
    blocks.finish(merge)
    assert jobs.get(info.id).state is JobState.DONE
    assert progress_of(store, info.id).blocks["done"] == 4


def test_a_failed_step_ends_a_gathering_job(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit_gather(GatherRequest("subject", "sae", "corpus", "/out"))
    for _ in range(LOST_AT_MOST):
        lose(blocks, take(blocks, GATHER))
    ((lease, _reason),) = blocks.to_set_aside()
    blocks.set_aside(lease, [])
    assert jobs.get(info.id).state is JobState.FAILED


def test_an_idempotency_key_asks_once(store: Store, jobs: Jobs) -> None:
    evidence_id, found = evidence(store), []
    threads = [
        threading.Thread(target=lambda: found.append(jobs.submit(evidence_id, Recipe(), idempotency_key="k").id))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == len(jobs.page()) == 1
    with pytest.raises(ConflictError, match="another request: choose a new key"):
        jobs.submit(evidence_id, Recipe(), "0-3", idempotency_key="k")


def test_pages_go_by_cursor(store: Store, jobs: Jobs) -> None:
    ids = [jobs.submit(evidence(store), Recipe(), str(i)).id for i in range(5)]
    first = jobs.page(limit=2)
    assert [j.id for j in first] == [ids[4], ids[3]]
    assert [j.id for j in jobs.page(before=first[-1].id, limit=2)] == [ids[2], ids[1]]
    assert jobs.page(state=JobState.PAUSED) == []


def test_a_list_of_jobs_shows_the_beginning_of_long_selections(store: Store, jobs: Jobs) -> None:
    evidence_id = evidence(store)
    long = ",".join(["1-3"] * 1000)
    whole, short = jobs.submit(evidence_id, Recipe(), long), jobs.submit(evidence_id, Recipe(), "7")
    gathering = jobs.submit_gather(GatherRequest("subject", "sae", "corpus", "/out"))
    assert [j.features for j in jobs.page()] == [None, "7", long[:200] + "…"]
    assert (whole.features, jobs.get(whole.id).features) == (long, long)
    assert jobs.page(limit=1) == [gathering]
    assert jobs.page(before=gathering.id, limit=1) == [short]


def test_scores_of_another_sae_select_nothing_here(store: Store, jobs: Jobs) -> None:
    small, large = evidence(store, 30), evidence(store, 60)
    sae = manifest()["sae"] | {"sha256": "b" * 64, "n_features": 60}
    other = store.label_set_for(manifest(hash="other", sae=sae), "/other", Recipe())
    store.save(other.id, [labeled(0), labeled(59)])
    for asked in (small, large):
        with pytest.raises(MismatchError, match=f"scores_of: label set {other.id} is of SAE"):
            jobs.submit(asked, Recipe(), "score>0", scores_of=other.id)
    same = store.label_set_for(manifest(hash="again", sae=sae), "/again", Recipe())
    assert jobs.submit(same.evidence_id, Recipe(seed=1), "score>0", scores_of=other.id).n_features == 2


def test_selections_by_condition(store: Store, jobs: Jobs, blocks: Blocks, tmp_path: Path) -> None:
    evidence_id = evidence(store)
    cheap = store.label_set_for(store.evidence(evidence_id)[0], str(tmp_path), Recipe(seed=7))
    store.save(cheap.id, [labeled(i, score=i / 10) for i in range(9)] + [labeled(9, None)])

    def chosen(features: str, recipe: Recipe) -> list[int]:
        info = jobs.submit(evidence_id, recipe, features)
        found = [f for _ in range(info.n_blocks) for f in take(blocks).features]
        assert info.n_features == len(found)
        return found

    assert chosen("score<0.25", Recipe()) == [0, 1, 2]
    assert chosen("score >= 0.7 and 0-7", Recipe()) == [7]
    own = store.label_set_for(store.evidence(evidence_id)[0], str(tmp_path), Recipe())
    store.save(own.id, [failed(4), labeled(5), silent(6)])
    assert chosen("state=failed", Recipe()) == [4]
    assert chosen("unlabeled and 3-7", Recipe()) == [3, 4, 7]
    assert chosen("state=pending and 3-7", Recipe()) == [3, 7]
    with pytest.raises(InputError, match="no feature is selected"):
        jobs.submit(evidence_id, Recipe(), "score>0.95")
    with pytest.raises(InputError, match="no other label set"):
        jobs.submit(evidence(store, 30), Recipe(), "score>0.95")


def test_bad_requests_leave_no_job(store: Store, jobs: Jobs) -> None:
    evidence_id = evidence(store)
    for features in (
        "0-50",
        "score<x",
        "state=odd",
        "density~1",
        "@/etc/passwd",
        "0-3 and @/etc/passwd",
        "1' OR '1'='1",
    ):
        with pytest.raises(InputError):
            jobs.submit(evidence_id, Recipe(), features)
    for wrong in (
        {"priority": 10},
        {"budget_usd": 0.0},
        {"budget_tokens": -1},
        {"scores_of": 99, "features": "score>0"},
    ):
        with pytest.raises(InputError):
            jobs.submit(evidence_id, Recipe(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="evidence 77"):
        jobs.submit(77, Recipe())
    with pytest.raises(NotFoundError, match="job 77"):
        jobs.cancel(77)
    assert jobs.page() == []
    assert store.label_sets() == [], "what is refused leaves no empty label set, which would be the newest"


def test_workers_that_claim_at_once_share_the_blocks_out(store: Store, jobs: Jobs, blocks: Blocks) -> None:
    info = jobs.submit(evidence(store, 2000), Recipe())
    done: list[int] = []

    def work(name: str) -> None:
        while (lease := blocks.claim(LABEL, name)) is not None:
            assert blocks.renew(lease) is HolderOrder.GO_ON
            if blocks.finish(lease):
                done.extend(lease.features)

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(2000))
    assert jobs.get(info.id).state is JobState.DONE


def test_density_comes_from_the_evidence(planted_evidence: Path, store: Store, jobs: Jobs) -> None:
    from labeler.evidence.store import EvidenceFolder

    folder = EvidenceFolder(planted_evidence)
    evidence_id = store.add_evidence(folder.manifest, str(planted_evidence))
    dense = int(np.sum(folder.densities > 0.01))
    assert 0 < dense < folder.n_features
    assert jobs.submit(evidence_id, Recipe(), "density>0.01").n_features == dense
    assert replace(jobs.get(1), features="all").features == "all"
