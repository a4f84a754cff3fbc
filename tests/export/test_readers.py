"""The Parquet file in the hands of the tools that people use: right types, and null where something is undefined."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

from labeler.evidence.store import EvidenceFolder
from labeler.export.columns import field
from labeler.export.export import export_label_set
from labeler.recipe import Recipe
from labeler.store import open_store
from tests.results import EXPORTED, failed, labeled, silent

_POLARS = {
    "string": pl.String,
    "int64": pl.Int64,
    "double": pl.Float64,
    "timestamp[us, tz=UTC]": lambda: pl.Datetime("us", "UTC"),
}
_DUCKDB = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "double": "DOUBLE",
    "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE",
}
_PANDAS = {"string": "str", "int64": "int64", "double": "float64", "timestamp[us, tz=UTC]": "datetime64[us, UTC]"}
_TYPES = {column.name: str(field(column).type) for column in EXPORTED}
_HAS_GAPS = {"score_n", "score_weighted_n"}  # numpy has no integer that is missing


@pytest.fixture(scope="module")
def parquet(planted_evidence: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    store = open_store(str(folder / "made.db"))
    store.label_set_for(EvidenceFolder(planted_evidence).manifest, str(planted_evidence), Recipe.from_names("openai:m"))
    store.save(1, [labeled(0, text="ünï\n`x`"), labeled(1, None), silent(5), failed(6), labeled(7, 0.0)])
    export_label_set(store, 1, "parquet", folder / "labels.parquet", top_contexts=2)
    return folder / "labels.parquet"


def test_pandas(parquet: Path) -> None:
    frame = pd.read_parquet(parquet)
    for name, kind in _TYPES.items():
        assert str(frame[name].dtype) == ("float64" if name in _HAS_GAPS else _PANDAS[kind]), name
    frame = frame.set_index("feature_index")
    assert frame["score"].isna().tolist() == [False, True, True, True, False]
    assert frame.loc[7, "score"] == 0.0
    assert frame.loc[0, "label"] == "ünï\n`x`"
    assert frame["label"].isna().tolist() == [False, False, True, True, False]
    assert pd.isna(frame.loc[6, "cost_usd"])
    assert max(frame.loc[0, "top_contexts"][0]["activations"]) == 5.0


def test_polars(parquet: Path) -> None:
    frame = pl.read_parquet(parquet)
    assert {name: frame.schema[name] for name in _TYPES} == {name: _POLARS[k]() for name, k in _TYPES.items()}
    assert frame.schema["top_contexts"] == pl.List(
        pl.Struct({"text": pl.String, "tokens": pl.List(pl.String), "activations": pl.List(pl.Float64)})
    )
    check_values(frame.sort("feature_index").to_dict(as_series=False))
    assert frame["score"].mean() == 0.25, "an undefined score is in no mean"
    assert pl.scan_parquet(parquet).filter(pl.col("score").is_null()).select(pl.len()).collect().item() == 3


def test_duckdb(parquet: Path) -> None:
    with duckdb.connect() as connection:
        table = connection.read_parquet(str(parquet))
        kinds = dict(zip(table.columns, map(str, table.types), strict=True))
        assert {name: kinds[name] for name in _TYPES} == {name: _DUCKDB[k] for name, k in _TYPES.items()}
        assert kinds["top_contexts"] == 'STRUCT("text" VARCHAR, tokens VARCHAR[], activations DOUBLE[])[]'
        rows = table.order("feature_index").fetchall()
        check_values(dict(zip(table.columns, map(list, zip(*rows, strict=True)), strict=True)))
        (mean,) = connection.sql(f"SELECT avg(score) FROM read_parquet('{parquet}')").fetchall()[0]
        assert mean == 0.25, "an undefined score is in no mean"


def check_values(columns: dict[str, list[Any]]) -> None:
    assert columns["feature_index"] == [0, 1, 5, 6, 7]
    assert columns["score"] == [0.5, None, None, None, 0.0]
    assert columns["score_n"] == [20, 20, None, None, 20]
    assert columns["label"] == ["ünï\n`x`", "the token `x`", None, None, "the token `x`"]
    assert columns["score_reason"] == [None, "the simulation is constant", None, None, None]
    assert columns["cost_usd"] == [0.25, 0.25, 0.0, None, 0.25]
    assert columns["tokens_in"][0] == 3_000_000_000
    assert not any(isinstance(v, float) and math.isnan(v) for values in columns.values() for v in values)
    assert [len(contexts) for contexts in columns["top_contexts"]] == [2, 2, 0, 2, 2]
    assert max(columns["top_contexts"][0][0]["activations"]) == 5.0
