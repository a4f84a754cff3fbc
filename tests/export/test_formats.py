"""`labeler export` and the service: the format by the file's ending, and no file of nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from labeler.errors import InputError
from labeler.formats import format_of
from labeler.recipe import Recipe
from labeler.settings import Settings
from labeler.store import Store, open_store
from tests.results import failed, labeled, manifest


@pytest.fixture
def database(migrated_file: Path, tmp_path: Path) -> Path:
    """Label set 1 has a label, label set 2 a failure, and label set 3 nothing."""
    path = Path(shutil.copy(migrated_file, tmp_path / "made.db"))
    store = open_store(str(path), migrate=False)
    for model in "abc":
        store.label_set_for(manifest(), "/evidence", Recipe.from_names(f"openai:{model}"))
    store.save(1, [labeled(0)])
    store.save(2, [failed(0)])
    store.close()
    return path


@pytest.fixture
def service(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """`--url http://service` is answered in this process."""
    settings = Settings(database=str(database), data=tmp_path)
    with TestClient(create_app(settings), base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as http:
        yield http


def test_the_ending_says_the_format(run, database: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("x.jsonl", "x.csv", "x.PARQUET"):
        done = run("export", "--db", database, "--out", tmp_path / name)
        assert (done.code, done.err) == (0, "")
        assert "1 features of label set 1 in" in done.out
    assert (tmp_path / "x.PARQUET").read_bytes()[:4] == b"PAR1"
    assert pd.read_csv(tmp_path / "x.csv")["feature_index"].tolist() == [0]
    assert run("export", "--db", database, "--out", tmp_path / "x.txt", "--format", "jsonl").code == 0, "as it is named"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x.parquet", "--format", "csv"], "has the ending of parquet, but --format says csv"),
        (["x.csv", "--format", "hf"], "has the ending of csv, but --format says hf"),
        (
            ["x.xlsx"],
            "its ending names no format; name a file that ends in .jsonl, .csv, .parquet, or choose --format jsonl, csv",
        ),
        (["folder"], "its ending names no format"),
        (
            ["x.csv", "--format", "xml"],
            "format 'xml' is not known: choose one of jsonl, csv, parquet, hf, saebench, neuronpedia",
        ),
        (["x.parquet", "--spreadsheet"], "--spreadsheet is a form of csv, and not of parquet"),
        (["x.jsonl", "--label-set", "3"], "label set 3 has no results yet: an export of it would have 0 rows"),
        (["x", "--format", "hf", "--label-set", "3"], "label set 3 has no results yet"),
    ],
)
def test_what_cannot_be_is_exit_2_and_leaves_no_file(  # type: ignore[no-untyped-def]
    run, database: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    name, *options = words
    done = run("export", "--db", database, "--out", tmp_path / name, *options)
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert not (tmp_path / name).exists()


def test_failures_are_rows(run, database: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run("export", "--db", database, "--out", tmp_path / "x.jsonl", "--label-set", "2")
    assert done.code == 0
    assert "1 features of label set 2" in done.out


def test_without_any_label_set_there_is_nothing_to_export(run, migrated_file: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    database = shutil.copy(migrated_file, tmp_path / "empty.db")
    done = run("export", "--db", database, "--out", tmp_path / "x.jsonl")
    assert done.code == 2
    assert "holds no label set" in done.err


def test_the_service_says_it_too(service: TestClient) -> None:
    for query in ("", "?limit=5", "?format=parquet"):
        reply = service.get(f"/v1/sets/3/export{query}")
        assert reply.status_code == 409
        assert "label set 3 has no results yet: an export of it would have 0 rows" in reply.json()["detail"]
    assert service.get("/v1/sets/1/export?format=parquet&spreadsheet=true").status_code == 422
    assert service.get("/v1/sets/9/export").status_code == 404


def test_the_service_has_the_form_for_spreadsheets(service: TestClient, database: Path) -> None:
    store = open_store(str(database), migrate=False)
    store.save(1, [labeled(1, text="=1+1")])
    store.close()
    plain, form = (service.get(f"/v1/sets/1/export?format=csv{more}") for more in ("", "&spreadsheet=true"))
    assert '"=1+1"' in plain.text
    assert '"\'=1+1"' in form.text
    assert plain.headers["etag"] != form.headers["etag"], "two files"
    part = service.get("/v1/sets/1/export?format=csv&limit=5&spreadsheet=true")
    assert part.text == form.text


def test_the_command_asks_a_service_by_the_same_rules(  # type: ignore[no-untyped-def]
    run, service: TestClient, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labeler import client

    monkeypatch.setattr(client.httpx2, "Client", lambda **_: service)
    done = run("export", "--url", "http://127.0.0.1", "--out", tmp_path / "x.csv", "--spreadsheet")
    assert (done.code, done.err) == (0, "")
    assert "features of label set 1 in" in done.out


def test_the_store_knows_whether_there_is_a_result(database: Path) -> None:
    store: Store = open_store(str(database), migrate=False)
    assert [store.has_results(n) for n in (1, 2, 3)] == [True, True, False]
    store.close()


def test_a_format_is_named_or_said_by_the_ending() -> None:
    assert format_of(Path("a.jsonl")) == "jsonl"
    assert format_of(Path("a.json"), "saebench") == "saebench"
    with pytest.raises(InputError, match="has the ending of csv"):
        format_of(Path("a.csv"), "parquet")
