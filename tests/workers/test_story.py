"""The whole story over HTTP on the demo's model: the documents' own commands, from `labeler up` to an exported label set."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from tests.waiting import HANGS
from tests.workers.conftest import REPOSITORY, free_port
from tests.workers.test_up import LABELER, alive, family, said

SERVICE = (REPOSITORY / "docs" / "service.md").read_text("utf-8")
N_TOKENS, N_FEATURES = 10_000, 24  # of what the page asks for, as much as a test has time for


def test_what_the_documents_tell_of_the_service(tmp_path: Path) -> None:
    up, *told = commands()
    url = f"http://127.0.0.1:{free_port()}"
    environment = {**os.environ, "LABELER_URL": url, "OMP_NUM_THREADS": "1"}

    def run(line: str) -> str:
        words = shlex.split(
            line.replace("http://127.0.0.1:8000", url)
            .replace("200000", str(N_TOKENS))
            .replace("0-255", f"0-{N_FEATURES - 1}")
        )
        words[0] = str(LABELER) if words[0] == "labeler" else words[0]
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=HANGS
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    with running([*shlex.split(up)[1:], "--port", url.rpartition(":")[2], "--processes", "1"], tmp_path, environment):
        printed = {line: run(line) for line in told}
    assert [line.split()[1] for line in told] == ["jobs", "jobs", "jobs", "jobs", "labels", "-s"]
    assert "done" in printed[told[1]]
    watched = printed[told[3]].splitlines()[-1]
    assert f"of {N_FEATURES} features" in watched, watched
    rows = pd.read_parquet(tmp_path / "labels.parquet")
    assert list(rows["feature_index"]) == list(range(N_FEATURES))
    assert (rows["state"] == "labeled").sum() == int(watched.partition(" labeled")[0].rpartition(" ")[2]) > 5
    assert set(rows["sae"]) == {"labeler-demo/sae"}


def commands() -> list[str]:
    """What the section on the service tells a newcomer to type, without comments."""
    section = SERVICE.partition("## On one machine")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    told = "".join(blocks).replace("\\\n", " ")
    lines = [line.partition("  #")[0].strip() for line in told.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@contextmanager
def running(words: list[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """`labeler up`, stopped as by Ctrl-C, without a trace."""
    with subprocess.Popen(
        [str(LABELER), *words], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as up:
        try:
            said(up, "Try: ")
            started = family(up)
            yield
            up.send_signal(signal.SIGINT)
            assert up.wait(HANGS) == 0
            assert alive(started) == []
        finally:
            up.kill()
