"""Gathering holds what features need and nothing that grows with the corpus."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Imports once, and forks for each pass: a process has one peak.
_GATHER = """
import os, sys
from pathlib import Path
import transformers.models.gpt_neox.modeling_gpt_neox
from labeler.cli.demo import gather_demo
for n_tokens in sys.argv[2:]:
    if os.fork() == 0:
        gather_demo(Path(sys.argv[1]) / n_tokens, int(n_tokens), lambda what, done, total: None)
        status = Path("/proc/self/status").read_text()
        print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def peaks_kb(out: Path, *n_tokens: int) -> list[int]:
    # Two arenas at most, or the allocator's free lists hide what the pass itself holds.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    words = [sys.executable, "-c", _GATHER, str(out), *map(str, n_tokens)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux's /proc")
def test_twice_the_tokens_need_no_more_memory(tmp_path: Path) -> None:
    once, twice = peaks_kb(tmp_path, 30_000, 60_000)
    assert twice < once * 1.05, f"{once} KB, then {twice} KB"
