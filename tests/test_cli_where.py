"""Where commands look for results, what they make, and whether their hints work when they are pasted."""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from labeler.cli.where import removed_if_unused
from labeler.errors import NotFoundError
from labeler.store import open_store
from labeler.store.people.keys import create_key, list_keys
from labeler.terms import Scope
from tests.planted import Planted
from tests.test_cli import gather_words


@pytest.fixture
def project(tmp_path: Path, planted_evidence: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with nothing in the environment, beside a folder whose name a shell would cut, with evidence."""
    monkeypatch.delenv("LABELER_DB")
    for name in ("LABELER_URL", "LABELER_DATA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "my runs & notes").mkdir()
    shutil.copytree(planted_evidence, tmp_path / "my runs & notes" / "evidence")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "my runs & notes"


def hinted(out: str) -> list[list[str]]:
    """The commands of a "Next:" line and of those below it, as a shell would read them."""
    lines = re.findall(r"^(?:Next: | +)labeler (.*)$", out, re.MULTILINE)
    return [shlex.split(line.replace("FEATURE", "0")) for line in lines]


def files(*folders: Path) -> set[Path]:
    return {p for folder in folders for p in folder.rglob("*") if not p.name.endswith(("-wal", "-shm"))}


def test_results_are_in_the_folder_that_holds_the_evidence(run: Any, project: Path, tmp_path: Path) -> None:
    assert run("label", project / "evidence", "--features", "0-3").code == 0
    assert (project / "labeler.db").is_file()
    assert list((tmp_path / "here").iterdir()) == []
    shown = json.loads(run("show", project / "evidence", 0, "--json").out)
    assert (shown["state"], shown["label_set"]) == ("labeled", 1)


@pytest.mark.parametrize("db", [None, "my results.db"])
def test_hints_work_when_they_are_pasted(run: Any, project: Path, db: str | None) -> None:
    done = run("label", project / "evidence", "--features", "0-3", *(["--db", db] if db else []))
    commands = hinted(done.out)
    assert [words[0] for words in commands] == ["show", "export"]
    assert ["--db" in words for words in commands] == [bool(db), True]
    for words in commands:
        assert run(*words).code == 0, words
    assert Path("labels.parquet").is_file()


def test_the_hints_of_gathering_and_of_jobs_work_too(run: Any, project: Path, planted: Planted, tmp_path: Path) -> None:
    gathered = run(*gather_words(planted, tmp_path / "it's new" / "evidence"))
    [words] = hinted(gathered.out)
    assert run(*words, "--features", "0").code == 0, words
    assert (tmp_path / "it's new" / "labeler.db").is_file()
    submitted = run("jobs", "submit", tmp_path / "it's new" / "evidence", "--features", "0-1")
    [words] = hinted(submitted.out)
    assert run("jobs", "cancel", 1, *words[3:]).code == 0
    assert run(*words).code == 4
    assert words[:3] == ["jobs", "watch", "1"]


READERS: list[tuple[object, ...]] = [
    ("sets",),
    ("show", "EVIDENCE", 0, "--label-set", 1),
    ("export", "--format", "csv", "--out", "new/x.csv"),
    ("diff", 1, 2),
    ("embed", "--model", "m"),
    ("activations", "text", "--sae", 1),
    ("jobs", "list"),
    ("jobs", "watch", 1),
    ("jobs", "submit", "EVIDENCE"),
    ("keys", "list"),
    ("keys", "create", "me"),
    ("keys", "revoke", "0"),
]


@pytest.mark.parametrize("words", READERS, ids=lambda words: " ".join(map(str, words)))
def test_what_reads_makes_nothing_and_names_what_it_looked_for(
    run: Any, project: Path, tmp_path: Path, words: tuple[object, ...]
) -> None:
    before = files(tmp_path)
    missing = tmp_path / "nowhere" / "results.db"
    asked = [project / "evidence" if word == "EVIDENCE" else word for word in words]
    done = run(*asked)
    assert (done.code, "labeler.db" in done.err) == (2, True), done.err
    named = run(*asked, "--db", missing)
    if words[:2] == ("jobs", "submit"):  # a database that somebody names is made for workers that are to come
        assert named.code == 0
        return
    assert (named.code, f"{missing}: no such file" in named.err) == (2, True), named.err
    assert files(tmp_path) == before


def test_a_database_near_is_named_as_it_has_to_be_given(run: Any, project: Path) -> None:
    assert run("label", project / "evidence", "--features", "0").code == 0
    (project.parent / "here" / "sub dir").mkdir()
    shutil.copy(project / "labeler.db", "sub dir")
    Path("other.db").write_text("not a database")
    lost = run("sets")
    assert lost.code == 2
    assert "other.db" not in lost.err
    [given] = re.findall(r"give --db ('[^']*'|\S+)", lost.err)
    assert run("sets", "--db", *shlex.split(given)).code == 0


def test_results_where_they_were_kept_before_are_found_and_not_paid_for_again(run: Any, project: Path) -> None:
    """Once `labeler.db` was always in the current folder."""
    assert run("label", project / "evidence", "--features", "0-3", "--db", "labeler.db").code == 0
    for words in (("show", project / "evidence", 0), ("label", project / "evidence")):
        refused = run(*words)
        assert (refused.code, "--db labeler.db" in refused.err) == (2, True), refused.err
        assert not (project / "labeler.db").exists()
    Path("labeler.db").rename(project / "labeler.db")
    assert json.loads(run("show", project / "evidence", 0, "--json").out)["state"] == "labeled"


def test_contexts_can_be_looked_at_before_anything_is_labeled(run: Any, project: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    shown = run("show", project / "evidence", 0)
    assert shown.code == 0
    assert "nothing is labeled yet: there is no " in shown.err
    assert files(tmp_path) == before


def test_a_folder_is_no_database_and_a_database_no_evidence(run: Any, project: Path) -> None:
    run("label", project / "evidence", "--features", "0")
    for folder in (project / "evidence", project):
        refused = run("sets", "--db", folder)
        [given] = re.findall(r"--db ('[^']*'|\S+)$", refused.err.strip())
        assert run("sets", "--db", *shlex.split(given)).code == 0
    turned = run("show", project / "labeler.db", 0)
    assert (turned.code, "this is a database" in turned.err) == (2, True), turned.err


def test_another_current_folder_finds_the_same_results(
    run: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("label", project / "evidence", "--features", "0")
    monkeypatch.chdir(project / "evidence")
    assert json.loads(run("show", ".", 0, "--json").out)["label_set"] == 1
    monkeypatch.chdir(project)
    assert json.loads(run("show", "evidence", 0, "--json").out)["label_set"] == 1
    assert run("sets").code == 0


def test_the_password_of_a_database_is_in_no_hint() -> None:
    from labeler.cli.where import db_words

    assert "secret" not in db_words("postgresql+psycopg://me:secret@db/labels")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a data folder as one that `labeler up` runs on: with its database, and the lock held."""
    locks = []

    def serve(name: str) -> Path:
        folder = tmp_path / "here" / name
        folder.mkdir()
        open_store(str(folder / "labeler.db")).close()
        lock = (folder / "up.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        locks.append(lock)
        return folder

    yield serve
    for lock in locks:
        lock.close()


def names(folder: Path) -> list[str]:
    store = open_store(str(folder / "labeler.db"))
    found = [key.name for key in list_keys(store)]
    store.close()
    return found


def test_a_key_is_made_where_the_service_looks(run: Any, project: Path, served: Callable[[str], Path]) -> None:
    data = served("labeler-data")
    made = run("keys", "create", "ann")
    assert made.code == 0, made.err
    assert names(data) == ["ann"]
    assert (
        "is stored in labeler-data/labeler.db. The running `labeler up` on labeler-data asks for a key from now on."
        in made.err
    )
    assert re.fullmatch(r"lbl_\S+\n", made.out)


def test_no_key_is_made_beside_a_service_that_looks_elsewhere(
    run: Any, project: Path, served: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = served("its data")
    lost = run("keys", "create", "ann")
    assert (lost.code, lost.out) == (2, "")
    assert "there is no labeler-data/labeler.db" in lost.err
    [given] = re.findall(r"--data ('[^']*')", lost.err)
    open_store("other.db").close()
    monkeypatch.setenv("LABELER_DB", "other.db")
    astray = run("keys", "create", "ann")
    assert (astray.code, astray.out) == (2, "")
    assert "no service uses other.db now, and `labeler up` runs on its data" in astray.err
    assert run("keys", "create", "ann", "--data", *shlex.split(given)).code == 0
    assert names(data) == ["ann"]
    assert "ann" in run("keys", "list", "--data", data).out


def test_only_an_unused_database_that_a_failed_command_made_is_removed(tmp_path: Path) -> None:
    def fail(path: Path, before: Callable[[], object] = lambda: None) -> None:
        with suppress(NotFoundError), removed_if_unused(str(path)):
            before()
            open_store(str(path)).close()
            raise NotFoundError("no such model")

    fail(tmp_path / "mine.db")
    assert list(tmp_path.iterdir()) == []
    older = tmp_path / "older.db"
    open_store(str(older)).close()
    fail(older)
    assert older.exists()
    used = tmp_path / "used.db"
    fail(used, lambda: create_key(open_store(str(used)), "ann", Scope.READ, "10/second"))
    assert used.exists()
    # Another process that has it open would write into a file without a name.
    shared = tmp_path / "shared.db"
    with ExitStack() as stack:

        def share() -> None:
            open_store(str(shared)).close()
            other = stack.enter_context(closing(sqlite3.connect(shared)))
            other.execute("SELECT count(*) FROM result").fetchone()

        fail(shared, share)
    assert shared.exists()


def test_databases_that_are_near_are_counted_and_named(run: Any, project: Path, tmp_path: Path) -> None:
    for name in ("a.db", "b c.db", "d.db"):
        open_store(str(tmp_path / "here" / name)).close()
        assert run("sets").code == 2
    said = run("sets").err
    assert "3 databases are near: give --db a.db, --db 'b c.db' or --db d.db" in said
