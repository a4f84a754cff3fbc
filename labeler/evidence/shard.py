"""Keep one shard of a pass on disk, so that a killed run can continue.

state-<c>.npz     statistics, quality sums and RANDOM windows up to chunk c
runs/<name>/      contexts found since the run before (evidence/contexts.py)
checkpoint.json   which of these count; replaced atomically, so a crash leaves the old or the new one
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeler.errors import MismatchError
from labeler.evidence.contexts import ContextsReader, ContextsWriter, best_of_runs
from labeler.evidence.format import position_dtype
from labeler.evidence.self_check import read_self_check
from labeler.evidence.state import KINDS, GatherState, kind_name, load_arrays, random_positions, save_arrays
from labeler.evidence.target import Target
from labeler.files import clear_disk_errors, read_json, write_json
from labeler.recipe import GatherConfig
from labeler.records import Source, Split
from labeler.subject.sequences import TokenizedCorpus

_RUNS_AT_MOST = 8


@dataclass
class ShardFolder:
    """The memory of one shard about one target, and the folder in which it is kept."""

    folder: Path
    corpus: TokenizedCorpus
    target: Target
    state: GatherState
    next_chunk: int
    runs: list[str]
    complete: bool
    massive_norm: float | None = None  # above which a token is massive, by what is read; None: no token is
    massive_norm_aim: float | None = None  # the same by what is reconstructed
    _n_spilled: int = 0  # since the last checkpoint

    @classmethod
    def open(cls, folder: Path, corpus: TokenizedCorpus, target: Target, config: GatherConfig) -> ShardFolder:
        state = GatherState(
            target.sae.n_features, _d_out(target), random_positions(corpus, config), config, position_dtype(corpus)
        )
        self = cls(folder, corpus, target, state, 0, [], False)
        if (check := read_self_check(folder.parent.parent)) is not None:
            self.massive_norm, self.massive_norm_aim = check.massive_norm, check.massive_norm_aim
        if (folder / "checkpoint.json").exists():
            self._continue(read_json(folder / "checkpoint.json"))
        return self

    def _continue(self, saved: dict[str, Any]) -> None:
        if saved["fingerprint"] != self.corpus.fingerprint:
            raise MismatchError(
                f"{self.folder} was gathered from another corpus, whose tokens or documents differ: give that corpus to go on, or choose another --out"
            )
        self.next_chunk, self.runs, self.complete = saved["next_chunk"], saved["runs"], saved["complete"]
        self.state.statistics, self.state.quality = load_arrays(self.folder / saved["state"], self.state.random)

    def spill(self) -> None:
        """Move the contexts to disk in mid-chunk; they count from the next checkpoint on."""
        self._n_spilled += 1
        self._write_run(f"{self.next_chunk:06d}-spill-{self._n_spilled}")

    def checkpoint(self, next_chunk: int, *, complete: bool) -> None:
        """Move the contexts to disk, and let a killed run continue from this point."""
        name = f"{next_chunk:06d}{'-end' if complete else ''}"
        self._write_run(name)
        with clear_disk_errors(self.folder):
            state_file = f"state-{name}.npz"
            save_arrays(self.folder / state_file, self.state.statistics, self.state.quality, self.state.random)
            self.next_chunk, self.complete, self._n_spilled = next_chunk, complete, 0
            write_json(
                self.folder / "checkpoint.json",
                {
                    "fingerprint": self.corpus.fingerprint,
                    "next_chunk": next_chunk,
                    "runs": self.runs,
                    "state": state_file,
                    "complete": complete,
                },
            )
            self._remove_all_but(state_file)

    def _write_run(self, name: str) -> None:
        with clear_disk_errors(self.folder):
            run = self._new_run(name)
            for kind in KINDS:
                writer = self._writer(run, kind)
                for contexts in self.state.reservoirs[kind].drain():
                    writer.append(contexts)
                writer.close()
            self.runs.append(name)
            if len(self.runs) > _RUNS_AT_MOST:
                self._merge_runs(f"{name}-merged")

    def _merge_runs(self, name: str) -> None:
        run = self._new_run(name)
        for kind in KINDS:
            readers = [ContextsReader(self.folder / "runs" / r / kind_name(*kind), with_rank=True) for r in self.runs]
            writer, reservoir = self._writer(run, kind), self.state.reservoirs[kind]
            for best in best_of_runs(readers, reservoir.k, self.state.n_features):
                writer.append(best)
                # One run holds too few contexts of a feature to rule any out; all runs together hold enough.
                reservoir.tighten(best)
            writer.close()
        self.runs = [name]

    def _new_run(self, name: str) -> Path:
        run = self.folder / "runs" / name
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        return run

    def _writer(self, run: Path, kind: tuple[Source, Split]) -> ContextsWriter:
        return ContextsWriter(run / kind_name(*kind), self.state.n_features, self.state.position_dtype, with_rank=True)

    def _remove_all_but(self, state_file: str) -> None:
        for old in self.folder.glob("state-*.npz"):
            if old.name != state_file:
                old.unlink()
        for old in (self.folder / "runs").iterdir():
            if old.name not in self.runs:
                shutil.rmtree(old)


def _d_out(target: Target) -> int:
    return target.sae.d_out
