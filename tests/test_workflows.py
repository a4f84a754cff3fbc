"""The workflows: the form is right, what they call exists, and the wheel's job does here what it does there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS: dict[str, dict[str, Any]] = {
    name: job for f in FILES for name, job in yaml.safe_load(f.read_text())["jobs"].items()
}


def test_the_workflows_have_the_form_of_workflows(tmp_path: Path) -> None:
    assert schema_check(*FILES).returncode == 0
    (tmp_path / "wrong.yml").write_text(FILES[0].read_text().replace("runs-on", "run-on"))
    assert schema_check(tmp_path / "wrong.yml").returncode == 1


def schema_check(*workflows: Path) -> subprocess.CompletedProcess[str]:
    words = [
        Path(sys.executable).parent / "check-jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *workflows,
    ]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_what_the_workflows_call_exists() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = {found for command in commands(*JOBS) for found in re.findall(r"^make ([\w-]+)", command)}
    assert called == {"lint", "types", "test", "test-latest", "test-real"}
    assert called <= set(targets)


def test_pushes_are_tested_on_the_oldest_and_the_newest_python() -> None:
    assert JOBS["check"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert commands("check") == ["make lint", "make types", "make test"]


@pytest.mark.real
def test_the_demo_runs_from_the_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    """Step by step as the workflow has it: built, installed from the lock, run outside the checkout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **JOBS["wheel"]["env"], "RUNNER_TEMP": str(tmp_path), "PATH": path}
    environment.pop("PYTHONPATH", None)
    for command in commands("wheel"):
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "demo-out" / "report.html").stat().st_size > 100_000


def commands(*jobs: str) -> list[str]:
    return [step["run"] for job in jobs for step in JOBS[job]["steps"] if "run" in step]
