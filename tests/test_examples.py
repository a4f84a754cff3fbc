"""The notebook in examples/ runs, with fewer tokens and features than a reader would take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "label_features.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("200_000", "10_000").replace("0-99", "0-39")
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert names["result"].label is not None
    assert (
        pd.read_parquet("notebook-out/labels.parquet")["feature_index"].tolist()
        == names["table"]["feature_index"].tolist()
    )
