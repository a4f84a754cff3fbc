"""Look-up labels on several processes: the same results as on one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.missing import label_missing
from labeler.label_sets.processes import processes_worth
from labeler.recipe import Recipe
from labeler.store import open_store
from tests.planted import N_FEATURES


def test_two_processes_give_what_one_gives(planted_evidence: Path, tmp_path: Path) -> None:
    folder, recipe = EvidenceFolder(planted_evidence), Recipe.from_names("lookup")
    rows = []
    for n_processes in (1, 2):
        store = open_store(str(tmp_path / f"{n_processes}.db"))
        label_set = store.label_set_for(folder.manifest, str(planted_evidence), recipe)
        run = asyncio.run(
            label_missing(folder, range(N_FEATURES), recipe, None, store, label_set, n_processes=n_processes)
        )
        assert run.n_labeled_now == N_FEATURES
        rows.append([{k: v for k, v in row.items() if k != "created_at"} for row in store.rows(label_set.id)])
        store.close()
    assert rows[0] == rows[1]


def test_a_process_is_started_for_work_that_outweighs_its_start() -> None:
    assert processes_worth(50, 8) == 1
    assert processes_worth(1500, 2) == 2
    assert processes_worth(10**6, 64) == 64
