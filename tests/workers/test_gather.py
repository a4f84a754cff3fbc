"""A step of a gathering job, in the folder that it was told to write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labeler.errors import MismatchError
from labeler.settings import Settings
from labeler.store.jobs.states import GatherRequest, Lease
from labeler.terms import JobKind
from tests.gathering import CONFIG
from tests.planted import Planted
from workers.gather import gather
from workers.hold import LeaseKeeper
from workers.resources import Resources


def test_evidence_of_another_pass_is_not_taken_for_what_was_asked(
    planted: Planted, planted_evidence: Path, tmp_path: Path
) -> None:
    asked = GatherRequest(
        str(planted.subject), str(planted.sae), str(planted.corpus), str(planted_evidence), config=CONFIG
    )
    worker = Resources(Settings(database=str(tmp_path / "labeler.db")))

    def prepare(request: GatherRequest) -> None:
        worker.jobs.submit_gather(request)
        lease = worker.blocks.claim(JobKind.GATHER, "w")
        assert isinstance(lease, Lease)
        gather(lease, LeaseKeeper(worker.blocks, lease, 30.0), worker)
        worker.blocks.finish(lease)

    try:
        prepare(asked)  # the pass that it holds: there is nothing left to do
        with pytest.raises(MismatchError, match="holds another pass: --seed was 0 and is 1 now"):
            prepare(replace(asked, config=replace(CONFIG, seed=1)))
    finally:
        worker.close()


def test_an_sae_that_explains_little_fails_the_job_unless_it_is_forced(planted: Planted, tmp_path: Path) -> None:
    asked = GatherRequest(
        str(planted.subject),
        str(planted.sae),
        str(planted.corpus),
        str(tmp_path / "evidence"),
        hookpoint="gpt_neox.layers.0.mlp",
        config=CONFIG,
    )
    worker = Resources(Settings(database=str(tmp_path / "labeler.db")))

    def prepare(request: GatherRequest) -> None:
        worker.jobs.submit_gather(request)
        lease = worker.blocks.claim(JobKind.GATHER, "w")
        assert isinstance(lease, Lease)
        try:
            gather(lease, LeaseKeeper(worker.blocks, lease, 30.0), worker)
        finally:
            worker.blocks.finish(lease)

    try:
        with pytest.raises(MismatchError, match="give --force"):
            prepare(asked)
        assert not (tmp_path / "evidence").exists()
        prepare(replace(asked, out=str(tmp_path / "forced"), force=True))
        assert (tmp_path / "forced" / "self_check.json").exists()
    finally:
        worker.close()
