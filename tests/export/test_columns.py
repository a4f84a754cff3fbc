"""One declaration of the columns: the docs, the metadata of Parquet, what is written and what comes in all follow from it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.client import LabelFilters
from labeler.errors import FormatError
from labeler.export.columns import dictionary
from labeler.export.export import export_label_set
from labeler.imports import files
from labeler.imports.labels import import_labels
from labeler.recipe import Recipe
from labeler.records import Score
from labeler.rest_schema import Label
from labeler.schema import DECLARED, FIXED, LISTED, SCORES, Kind, column_of, filters
from labeler.score.intervention import judge
from labeler.store import Store
from labeler.store.tables.label_sets import RESULTS
from tests.results import failed, labeled, manifest, silent

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "columns.md"


@pytest.fixture
def made(store: Store) -> Store:
    store.label_set_for(manifest(), "/evidence", Recipe.from_names("openai:m", "openai:s"))
    main = labeled(0).scores[0]
    weighted = Score("simulation_weighted", 0.25, low=0.125, high=0.375, n=20)
    store.save(1, [replace(labeled(0), scores=(main, weighted)), labeled(1, None), silent(2), failed(3)])
    return store


def test_the_dictionary_in_the_docs_is_the_declaration() -> None:
    assert DOCS.read_text("utf-8") == dictionary(), "run: python -m labeler.export.columns > docs/columns.md"


def test_every_column_says_what_it_holds() -> None:
    for column in DECLARED.values():
        assert re.fullmatch(r"[A-Z].*\.", column.meaning), column.name
        assert not re.match(r"(What|That|Of|How|Which|Who|Whose|As|Where)\b", column.meaning)
        if column.kind in (Kind.COUNT, Kind.NUMBER):
            assert column.range, f"{column.name} is a number without unit or range"


def test_rows_rest_and_the_client_have_the_columns_that_are_declared() -> None:
    on_rows = {column.name for column in FIXED if not column.of_the_set} | {*LISTED}
    inside = {"scores", "simulations", "label_table", "origin", "statistics"}
    assert {column.name for column in RESULTS.c} == on_rows | inside
    assert set(Label.model_fields) == {*LISTED, "sae", "scores"}
    assert Label.model_fields["score"].description.startswith(DECLARED["score"].meaning)  # type: ignore[union-attr]
    numbers = {name for name in LabelFilters.__annotations__ if name.endswith(("_min", "_max"))}
    assert numbers - {"width_max"} <= set(filters())


def test_the_scores_of_every_scorer_are_declared() -> None:
    makes = re.compile(r'(?:measure|score)\.(?:accuracy|recall|auroc|correlation|explained|ranking)\(\s*"([a-z_]+)"')
    made = [
        name for path in (ROOT / "labeler" / "score").glob("*.py") for name in makes.findall(path.read_text("utf-8"))
    ]
    assert {*made, judge.NAME} == set(SCORES)


@pytest.mark.parametrize("name", ["density", "detection_low", "Recall-Alt 2", "score_x", "width", "1st", "x" * 90, "ü"])
def test_a_score_whose_name_is_no_columns_name_gets_another(name: str) -> None:
    column = column_of(name)
    assert re.fullmatch(r"of_[a-z0-9_]+", column)
    assert column_of(column) == column, "it keeps that name when it comes back"
    assert column not in DECLARED


def test_parquet_carries_meaning_range_and_a_timestamp(made: Store, tmp_path: Path) -> None:
    export_label_set(made, 1, "parquet", tmp_path / "x.parquet")
    schema = pq.read_schema(tmp_path / "x.parquet")
    assert {"score_weighted", "score_weighted_low"} <= {*schema.names}
    for name in schema.names:
        said = schema.field(name).metadata
        assert said[b"description"].decode() == DECLARED[name].meaning
        assert said.get(b"range", b"").decode() == DECLARED[name].range
    assert schema.field("created_at").type == pa.timestamp("us", tz="UTC")
    frame = pd.read_parquet(tmp_path / "x.parquet")
    stored = [row["created_at"] for row in made.rows(1)]
    assert [t.tz_localize(None) for t in frame["created_at"]] == [
        pd.Timestamp(t).replace(microsecond=0, tzinfo=None) for t in stored
    ]


def test_text_formats_have_the_time_with_its_zone(made: Store, tmp_path: Path) -> None:
    export_label_set(made, 1, "jsonl", tmp_path / "x.jsonl")
    export_label_set(made, 1, "csv", tmp_path / "x.csv")
    line = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    row = next(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", line["created_at"])
    assert row["created_at"] == line["created_at"]


def test_the_weighted_score_stands_beside_the_score_with_its_interval(made: Store, tmp_path: Path) -> None:
    export_label_set(made, 1, "jsonl", tmp_path / "x.jsonl")
    first, second, *_ = (json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines())
    names = list(first)
    assert names[names.index("baseline_token_lookup") :][1:5] == [
        "score_weighted",
        "score_weighted_low",
        "score_weighted_high",
        "score_weighted_n",
    ]
    assert [first[name] for name in names if name.startswith("score_weighted")] == [0.25, 0.125, 0.375, 20]
    assert second["score_weighted_low"] is None
    assert (first["label_set_id"], first["simulator"]) == (1, "openai:s")
    done = import_labels(made, tmp_path / "x.jsonl")
    row = made.row(done.label_set, 0)
    assert row is not None
    assert (row["score_weighted_low"], row["score_weighted_high"]) == (0.125, 0.375)
    assert {end: row["scores"][1][end] for end in ("low", "high")} == {"low": 0.125, "high": 0.375}


def _forget_scores(path: Path) -> None:
    """Take out of the card what cards of before did not say."""
    beside = path.with_name(path.name + ".card.json")
    if beside.exists():
        beside.write_text(json.dumps({k: v for k, v in json.loads(beside.read_text()).items() if k != "scores"}))
        return
    table = pq.read_table(path)
    card = json.loads(table.schema.metadata[b"labeler.card"])
    del card["scores"]
    pq.write_table(table.replace_schema_metadata({b"labeler.card": json.dumps(card).encode()}), path)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files_of_before_come_in(made: Store, tmp_path: Path, kind: str) -> None:
    """Without the newer columns, and with the time as text in Parquet too."""
    path = tmp_path / f"x.{kind}"
    export_label_set(made, 1, kind, path)
    # Older files had columns for these scores only, without the number of windows, and cards that name no score.
    newer = {c.name for c in FIXED if c.is_new} | {"score_weighted_low", "score_weighted_high", "score_weighted_n"}
    _forget_scores(path)
    if kind == "parquet":
        table = pq.read_table(path).drop_columns(sorted(newer))
        text = pa.array([t.isoformat() for t in table["created_at"].to_pylist()])
        place = table.schema.get_field_index("created_at")
        pq.write_table(table.set_column(place, "created_at", text), path)
    elif kind == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({k: v for k, v in r.items() if k not in newer}) + "\n" for r in rows))
    else:
        pd.read_csv(path).drop(columns=sorted(newer)).to_csv(path, index=False)
    done = import_labels(made, path)
    assert done.n_features == 4
    row = made.row(done.label_set, 0)
    assert row is not None
    assert (row["score"], row["score_weighted"], row["score_weighted_low"]) == (0.5, 0.25, None)
    assert row["created_at"].replace(tzinfo=None) == next(made.rows(1))["created_at"].replace(
        microsecond=0, tzinfo=None
    )


def test_an_imported_set_is_exported_under_the_id_it_was_made_as(made: Store, tmp_path: Path) -> None:
    export_label_set(made, 1, "parquet", tmp_path / "a.parquet")
    second = import_labels(made, tmp_path / "a.parquet").label_set
    export_label_set(made, second, "jsonl", tmp_path / "b.jsonl")
    export_label_set(made, 1, "jsonl", tmp_path / "a.jsonl")
    assert second == 2
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()
    third = import_labels(made, tmp_path / "b.jsonl").label_set
    export_label_set(made, third, "jsonl", tmp_path / "c.jsonl")
    assert (tmp_path / "c.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


@pytest.mark.parametrize("length", [200, 201])
def test_imported_labels_have_the_length_limit_of_others(made: Store, tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.jsonl"
    export_label_set(made, 1, "jsonl", path)
    lines = path.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "label": "x" * length})
    path.write_text("\n".join(lines) + "\n")
    if length == 200:
        assert import_labels(made, path).n_features == 4
        return
    with pytest.raises(FormatError, match="line 1: label has 201 characters, but at most 200 are kept") as caught:
        import_labels(made, path)
    assert len(str(caught.value)) < len(str(path)) + 200, "the message is bounded, whatever the label is"


def test_a_file_has_a_limit_of_columns_and_of_a_lines_length(
    made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_label_set(made, 1, "csv", tmp_path / "x.csv")
    head, rest = (tmp_path / "x.csv").read_text().split("\n", 1)
    card = tmp_path / "x.csv.card.json"
    (tmp_path / "wide.csv").write_text(",".join([head, *(f"c{i}" for i in range(2000))]) + "\n" + rest)
    with pytest.raises(FormatError, match="columns, but at most 1,000 are read"):
        import_labels(made, tmp_path / "wide.csv", card)
    monkeypatch.setattr(files, "_LONGEST_LINE", 5000)
    for kind in ("jsonl", "csv"):
        export_label_set(made, 1, kind, tmp_path / f"long.{kind}")
        with (tmp_path / f"long.{kind}").open("a") as file:
            file.write("{" + " " * 6000 + "}")
        with pytest.raises(FormatError, match="longer than"):
            import_labels(made, tmp_path / f"long.{kind}")
