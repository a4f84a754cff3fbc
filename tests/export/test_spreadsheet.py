"""CSV in a spreadsheet and in pandas: nothing runs, and no label is lost."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest

from labeler.errors import InputError
from labeler.evidence.store import EvidenceFolder
from labeler.export.columns import READ_CSV
from labeler.export.export import export_label_set
from labeler.export.spreadsheet import inert
from labeler.imports.labels import import_labels
from labeler.recipe import Recipe
from labeler.schema import DECLARED, Kind
from labeler.store import Store, open_store
from labeler.store.people.reviews import add_review
from labeler.terms import Verdict
from tests.results import failed, labeled, manifest

FORMULAS = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    '"=1+1',
    "'=1+1",
    "''=1",
    "a\n=cmd|' /C calc'!A0",
    "a\r@x",
    "a;=1+1",
    'a,"=1+1',
    "a,=1",
    "\u200b=1",
    "\ufeff=1",
    "\u00a0-1",
    "\uff1d1+1",
    "\u2028=1",
    "a\x0b=1",
    '";=1',
    '=HYPERLINK("http://x")',
)
MISSING_WORDS = (
    "NA",
    "null",
    "None",
    "nan",
    "NaN",
    "N/A",
    "NULL",
    "<NA>",
    "#N/A",
    "-",
    "0",
    "1.0",
    "true",
    "2026-01-02",
)
_RUNS = re.compile(r"[\s\"'\u200b\ufeff\u00a0]*[=+\-@\uff1d]")


def runs(cell: str) -> bool:
    """Whether a spreadsheet would take the cell for a formula: an apostrophe before the sign makes it text."""
    found = _RUNS.match(cell)
    return found is not None and not found[0][:-1].endswith("'")


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("cut", [",", ";", "\t", "|"])
def test_no_cell_runs_however_the_file_is_cut(text: str, cut: str) -> None:
    shown = inert(text)
    assert len(shown.splitlines()) == 1
    assert not any(runs(cell) for cell in shown.split(cut))
    written = '"' + shown.replace('"', '""') + '"'
    assert not any(runs(cell) for cell in written.split(cut)), "also where quotes are taken for text"


@pytest.mark.parametrize("text", ["the token `-`", "a-b", "x = y", "prices, e.g. 3%", "it's over"])
def test_usual_text_stays(text: str) -> None:
    assert inert(text) == text


def filled(folder: Path, texts: tuple[str, ...]) -> Store:
    store = open_store(str(folder / "labeler.db"))
    plain = manifest()
    store.label_set_for(
        manifest(subject={**plain["subject"], "id": "=subject"}, names={"sae": "+sae"}),
        "/evidence",
        Recipe.from_names("openai:m"),
    )
    store.save(1, [*(labeled(i, text=text) for i, text in enumerate(texts)), failed(48, "=refused")])
    return store


def test_no_text_column_of_the_file_runs(tmp_path: Path) -> None:
    store = filled(tmp_path, FORMULAS)
    add_review(store, 1, 0, Verdict.CORRECTED, "@ann", "=2+2")
    assert export_label_set(store, 1, "csv", tmp_path / "x.csv", spreadsheet=True) == len(FORMULAS) + 1
    text = (tmp_path / "x.csv").read_text("utf-8")
    assert text.count("\n") == len(FORMULAS) + 2, "one line for each row, whatever labels hold"
    header, *rows = csv.reader(text.splitlines())
    assert not any(map(runs, header))
    texts = [name for name in header if DECLARED[name].kind in (Kind.TEXT, Kind.CONTEXTS)]
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        assert not any(runs(cells[name]) for name in texts)
        assert cells["score"] in ("0.5", "")
    assert rows[0][header.index("person_label")] == "'=2+2"
    export_label_set(store, 1, "csv", tmp_path / "plain.csv")
    assert pd.read_csv(tmp_path / "plain.csv")["label"][0] == "=1+1", "exact without --spreadsheet"


def test_contexts_do_not_run_and_stay_json(planted_evidence: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "labeler.db"))
    store.label_set_for(EvidenceFolder(planted_evidence).manifest, str(planted_evidence), Recipe())
    store.save(1, [labeled(0)])
    export_label_set(store, 1, "csv", tmp_path / "x.csv", top_contexts=2, spreadsheet=True)
    (row,) = csv.DictReader((tmp_path / "x.csv").read_text("utf-8").splitlines())
    assert not runs(row["top_contexts"])
    assert len(json.loads(row["top_contexts"])) == 2


def test_the_form_is_said_and_does_not_come_back(tmp_path: Path) -> None:
    store = filled(tmp_path, ("=1+1",))
    export_label_set(store, 1, "csv", tmp_path / "x.csv", spreadsheet=True)
    assert "apostrophe stands before each text" in (tmp_path / "x.csv.card.md").read_text()
    with pytest.raises(InputError, match="exported with --spreadsheet"):
        import_labels(store, tmp_path / "x.csv")
    export_label_set(store, 1, "csv", tmp_path / "y.csv")
    beside = (tmp_path / "y.csv.card.md").read_text()
    assert "export with `--spreadsheet`" in beside
    assert READ_CSV in beside
    with pytest.raises(InputError, match="a form of csv, and not of parquet"):
        export_label_set(store, 1, "parquet", tmp_path / "z.parquet", spreadsheet=True)


def test_labels_that_look_like_nothing_are_read_as_they_are(tmp_path: Path) -> None:
    store = filled(tmp_path, MISSING_WORDS)
    export_label_set(store, 1, "csv", tmp_path / "labels.csv")
    wanted = [*MISSING_WORDS, None]
    frame = eval(READ_CSV.replace('"labels.csv"', "path"), {"pd": pd, "path": tmp_path / "labels.csv"})
    assert [None if pd.isna(v) else v for v in frame["label"]] == wanted
    assert frame["score"].dtype == "float64"
    assert frame["score"].isna().sum() == 1
    polars = pl.read_csv(tmp_path / "labels.csv", schema_overrides={"label": pl.String})
    assert polars["label"].to_list() == wanted
    with duckdb.connect() as connection:
        table = connection.read_csv(str(tmp_path / "labels.csv"), dtype={"label": "VARCHAR"})
        assert [row[0] for row in table.order("feature_index").project("label").fetchall()] == wanted
    other = open_store(str(tmp_path / "other.db"))
    import_labels(other, tmp_path / "labels.csv")
    assert [row["label"] for row in other.rows(1)] == wanted
    other.close()
