"""`labeler jobs` as a person meets it; what workers make of the jobs is tested beside."""

from __future__ import annotations

import json
from pathlib import Path

from labeler.store import open_store
from labeler.store.jobs.blocks import Blocks
from labeler.terms import JobKind
from tests.planted import N_FEATURES
from tests.results import failed


def test_a_job_from_submission_to_cancellation(run, planted_evidence: Path) -> None:  # type: ignore[no-untyped-def]
    submitted = run("jobs", "submit", planted_evidence, "--features", "density>0.001", "--json")
    assert submitted.code == 0, submitted.err
    job = json.loads(submitted.out)
    assert 0 < job["n_features"] < N_FEATURES
    assert job["progress"]["counts"]["pending"] == job["n_features"]
    assert "queued" in run("jobs", "list").out
    for word, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled"), ("retry", "queued")):
        done = run("jobs", word, job["id"])
        assert done.code == 0, done.err
        assert done.out.startswith(f"job {job['id']} label {state}: ")
    refused = run("jobs", "resume", job["id"])
    assert refused.code == 2
    assert "cannot be resumed: only one that is paused can" in refused.err
    run("jobs", "cancel", job["id"])
    assert run("jobs", "watch", job["id"]).code == 4


def test_reasons_are_no_commands_for_the_terminal(run, planted_evidence: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    job = json.loads(run("jobs", "submit", planted_evidence, "--json").out)
    store = open_store(str(tmp_path / "labeler.db"))
    lease = Blocks(store).claim(JobKind.LABEL, "a worker")
    assert lease is not None
    Blocks(store).save(lease, [failed(3, "refused\x1b[2J: no\x07")])
    store.close()
    shown = run("jobs", "show", job["id"]).out
    assert "1 features failed: refused␛[2J\n" in shown
    assert "feature 3: refused␛[2J: no␇\n" in shown


def test_a_list_in_a_file_is_read_here_and_not_by_a_worker(run, planted_evidence: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "some").write_text("3\n1\n")
    submitted = run("jobs", "submit", planted_evidence, "--features", f"@{tmp_path / 'some'}", "--json")
    assert json.loads(submitted.out)["features"] == "1,3"


def test_a_gathering_job_is_cut_into_steps(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    words = ["--subject", "s", "--sae", "a", "--corpus", "c", "--out", tmp_path / "out", "--shards", 3]
    submitted = run("jobs", "gather", *words)
    assert "gather queued: 0 of 5 steps" in submitted.out
    assert run("migrate").code == 0


def test_mistakes_are_named(run, planted_evidence: Path) -> None:  # type: ignore[no-untyped-def]
    run("migrate")
    for words, says in (
        (("jobs", "show", 9), "job 9"),
        (("jobs", "submit", planted_evidence, "--features", "score<0"), "no other label set"),
        (("jobs", "submit", planted_evidence, "--budget-usd", "0"), "budget_usd is 0"),
        (("worker", "--queues", "both"), "choose `label` or `gather`"),
    ):
        done = run(*words)
        assert done.code == 2
        assert says in done.err
