"""The wheel: everything in our folders is in it, and from it the demo runs with no checkout around."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
FOLDERS = ("labeler", "workers", "api")


def test_the_wheel_holds_every_file_of_our_folders_and_nothing_else(tmp_path: Path) -> None:
    """Templates, scripts, recipes, migrations, prices and the demo's weights are read from beside the code."""
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with ZipFile(built) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    here = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file())
    assert held == {path.relative_to(ROOT).as_posix() for path in here if "__pycache__" not in path.parts}
    assert {
        "labeler/recipes/standard.toml",
        "labeler/demo/sae/sae_weights.safetensors",
        "api/pages/templates/base.html.j2",
    } < held
