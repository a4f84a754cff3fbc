"""A label set that is exported, imported and exported again; and files that are not what they should be."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.errors import ConflictError, FormatError, InputError, MismatchError, NotFoundError
from labeler.evidence.store import EvidenceFolder
from labeler.export.card import build_card, card_markdown
from labeler.export.export import export_label_set
from labeler.imports.labels import import_labels
from labeler.recipe import Recipe, ScorerConfig
from labeler.records import Score
from labeler.store import Store, open_store
from labeler.store.jobs.jobs import Jobs
from labeler.store.label_sets.catalogue import newest_evidence
from labeler.store.label_sets.compare import compare_sets
from labeler.store.label_sets.imported import evidence_folder
from labeler.store.people.reviews import add_review
from labeler.terms import Verdict
from tests.results import failed, labeled, manifest, silent

KINDS = ("jsonl", "csv", "parquet")
HOSTILE = 'says "hi",\nthen =SUM(A1), ünïcode ⏎ \\ </script> \u202e'


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `made.db`, a label set in five states of affairs, and `here.db`, an empty database."""
    folder = tmp_path_factory.mktemp("databases")
    open_store(str(folder / "here.db")).close()
    made = open_store(str(folder / "made.db"))
    label_set = made.label_set_for(manifest(), "/evidence", Recipe.from_names("openai:m"))
    scores = (*labeled(0).scores, Score("detection", 0.75, n=40), Score("fuzzing", 1 / 3, n=40))
    first = replace(labeled(0, 0.1 + 0.2, HOSTILE), scores=(replace(scores[0], value=0.1 + 0.2), *scores[1:]))
    made.save(label_set.id, [first, labeled(1, None), silent(2), failed(3), labeled(40, 0.0, "=1+1")])
    made.close()
    return folder


@pytest.fixture
def made(databases: Path, tmp_path: Path) -> Store:
    return copy_of(databases / "made.db", tmp_path)


@pytest.fixture
def here(databases: Path, tmp_path: Path) -> Store:
    return copy_of(databases / "here.db", tmp_path)


def copy_of(database: Path, folder: Path) -> Store:
    return open_store(str(shutil.copy(database, folder)), migrate=False)


def exported(made: Store, kind: str, folder: Path, **options: Any) -> Path:
    path = folder / f"labels.{kind}"
    export_label_set(made, 1, kind, path, **options)
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_again_is_the_same_to_the_byte(made: Store, store: Store, tmp_path: Path, kind: str) -> None:
    done = import_labels(store, exported(made, kind, tmp_path))
    assert (done.label_set, done.n_features, done.columns_left_out) == (1, 5, [])
    original, again = exported(made, "jsonl", tmp_path), tmp_path / "again.jsonl"
    export_label_set(store, done.label_set, "jsonl", again)
    assert again.read_bytes() == original.read_bytes()
    assert lines_of(again)[0]["label"] == HOSTILE
    assert lines_of(again)[1]["score"] is None


def test_the_card_says_where_it_came_from_and_is_the_same_otherwise(made: Store, store: Store, tmp_path: Path) -> None:
    path = exported(made, "parquet", tmp_path)
    before, after = build_card(made, 1), build_card(store, import_labels(store, path).label_set)
    assert before["imported"] == []
    (came,) = after["imported"]
    assert (came["file"], came["features"], came["label_set"]) == ("labels.parquet", 5, 1)
    assert {**after, "imported": []} == before
    assert "Imported, not made here: 5 features of labels.parquet" in card_markdown(after)
    assert "Imported" not in card_markdown(before)
    assert evidence_folder(store, 1) == "imported:labels.parquet"
    # And on: the second database's export says both ways.
    export_label_set(store, 1, "csv", tmp_path / "on.csv")
    third = open_store(str(tmp_path / "third.db"))
    import_labels(third, tmp_path / "on.csv")
    assert [c["file"] for c in build_card(third, 1)["imported"]] == ["labels.parquet", "on.csv"]


def test_it_stands_beside_the_label_set_it_was_made_from(made: Store, tmp_path: Path) -> None:
    label_set = import_labels(made, exported(made, "jsonl", tmp_path)).label_set
    assert label_set == 2
    assert len(made.label_sets()) == 2
    found = compare_sets(made, 1, 2)
    assert (found.n_both, found.n_same_text, found.mean_difference) == (5, 3, 0.0)
    assert made.summary(1) == made.summary(2)
    assert newest_evidence(made, 1).path == "/evidence", "an import is no evidence that could be read"
    assert evidence_folder(made, 2) == "/evidence", "the same evidence is here"


def test_nothing_is_added_to_what_others_made(made: Store, here: Store, tmp_path: Path) -> None:
    import_labels(here, exported(made, "jsonl", tmp_path))
    with pytest.raises(ConflictError, match=r"imported from labels\.jsonl: there is nothing to label from"):
        Jobs(here).submit(1, Recipe.from_names("openai:m"))


@pytest.mark.parametrize("kind", KINDS)
def test_contexts_travel_where_they_were_asked_for(planted_evidence: Path, tmp_path: Path, kind: str) -> None:
    first, second = open_store(str(tmp_path / "1.db")), open_store(str(tmp_path / "2.db"))
    folder = EvidenceFolder(planted_evidence)
    first.label_set_for(folder.manifest, str(planted_evidence), Recipe())
    density = {f: replace(labeled(f), statistics=folder.statistics(f)) for f in (0, 6)}
    first.save(1, [*density.values(), replace(silent(5), statistics=folder.statistics(5))])
    done = import_labels(second, exported(first, kind, tmp_path, top_contexts=3))
    assert done.n_contexts == 6
    export_label_set(first, 1, "jsonl", tmp_path / "a.jsonl", top_contexts=3)
    export_label_set(second, 1, "jsonl", tmp_path / "b.jsonl", top_contexts=3)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    row = lines_of(tmp_path / "b.jsonl")[0]
    assert max(row["top_contexts"][0]["activations"]) == 5.0
    export_label_set(second, 1, "jsonl", tmp_path / "one.jsonl", top_contexts=1)
    assert [len(r["top_contexts"]) for r in lines_of(tmp_path / "one.jsonl")] == [1, 0, 1]


def test_without_contexts_none_can_be_exported(made: Store, here: Store, tmp_path: Path) -> None:
    import_labels(here, exported(made, "jsonl", tmp_path))
    with pytest.raises(InputError, match="was imported without contexts"):
        export_label_set(here, 1, "jsonl", tmp_path / "x", top_contexts=1)


def test_the_same_file_comes_in_once(made: Store, here: Store, tmp_path: Path) -> None:
    path = exported(made, "jsonl", tmp_path)
    import_labels(here, path)
    with pytest.raises(ConflictError, match="here already, as label set 1"):
        import_labels(here, path)
    assert len(here.label_sets()) == 1


def test_what_went_through_pandas_comes_in_too(made: Store, here: Store, tmp_path: Path) -> None:
    """Columns in another order, whole numbers as decimals, a column of one's own, no card inside."""
    frame = pd.read_parquet(exported(made, "parquet", tmp_path)).sort_index(axis=1).iloc[::-1]
    frame["note"] = "mine"
    frame.to_parquet(tmp_path / "pandas.parquet")
    (tmp_path / "card.json").write_text(json.dumps(build_card(made, 1)))
    frame.to_csv(tmp_path / "pandas.csv", index=False)
    for name in ("pandas.parquet", "pandas.csv"):
        with pytest.raises(NotFoundError, match="--card FILE"):
            import_labels(here, tmp_path / name)
        done = import_labels(here, tmp_path / name, tmp_path / "card.json")
        assert done.columns_left_out == ["note"]
        export_label_set(here, done.label_set, "jsonl", tmp_path / "again.jsonl")
        assert lines_of(tmp_path / "again.jsonl") == lines_of(exported(made, "jsonl", tmp_path))


def test_intervention_scores_stay_on_the_card(here: Store, tmp_path: Path) -> None:
    made = open_store(str(tmp_path / "made.db"))
    recipe = replace(Recipe.from_names("openai:m"), scorers=(ScorerConfig("intervention", "m"),))
    made.label_set_for(manifest(), "/evidence", recipe)
    made.save(1, [replace(labeled(0), scores=(*labeled(0).scores, Score("intervention", 0.9, n=16)))])
    import_labels(here, exported(made, "jsonl", tmp_path))
    card = build_card(here, 1)
    assert card["interventions"] == {"n": 1, "median": 0.9, "chance": 0.5, "undefined": {}}
    assert card["claim"] == build_card(made, 1)["claim"]


def change(path: Path, number: int, **values: Any) -> None:
    lines = path.read_text("utf-8").splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **values})
    path.write_text("\n".join(lines) + "\n")


BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"feature_index": 0}, "line 3: feature 0 is there twice"),
    ({"feature_index": 50}, "line 3: feature 50, and the card's SAE has 50"),
    ({"feature_index": 1.5}, "line 3: feature_index is 1.5: expected a whole number"),
    ({"feature_index": None}, "line 3: feature_index is empty"),
    ({"state": "fine"}, "line 3: state is 'fine': expected one of failed, labeled, rare, silent"),
    ({"state": "pending"}, "line 3: state is 'pending'"),
    ({"state": "labeled"}, "line 3: the state is labeled and label is None"),
    ({"label": "a label"}, "line 3: the state is silent and label is 'a label'"),
    ({"reason": None}, "line 3: a silent feature has no reason"),
    ({"score": 0.0}, "line 3: a silent feature has a value of score"),
    ({"detection": 1.5}, "line 3: detection is 1.5: expected a finite number from 0 to 1"),
    ({"tokens_in": -1}, "line 3: tokens_in is -1: expected a whole number, 0 or more"),
    ({"tokens_in": True}, "line 3: tokens_in is True"),
    ({"density": "much"}, "line 3: density is 'much'"),
    ({"created_at": "yesterday"}, "line 3: created_at is 'yesterday': expected a time"),
    ({"reason": "a\x00b"}, "line 3: reason holds a null character"),
    ({"hookpoint": "layers.2"}, "line 3: hookpoint is 'layers.2', and the card says 'layers.1'"),
    ({"recipe_hash": "0" * 16}, "line 3: recipe_hash is '0000000000000000', and the card says"),
    ({"n_firings": 7}, "line 3: density 0 with 7 firings, and the card's corpus has 1000 tokens"),
    ({"top_contexts": [{"text": "ab", "tokens": ["a"], "activations": [1]}]}, "line 3: top_contexts are not a list"),
]


def test_a_bad_value_is_named_with_its_line(made: Store, here: Store, tmp_path: Path) -> None:
    for values, message in BAD_VALUES:
        path = exported(made, "jsonl", tmp_path)
        change(path, 3, **values)
        with pytest.raises(InputError) as error:
            import_labels(here, path)
        assert message in str(error.value)
    assert here.label_sets() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_refused_whole(made: Store, here: Store, tmp_path: Path, kind: str) -> None:
    path = exported(made, kind, tmp_path)
    whole = path.read_bytes()
    for share in (0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match="cut"):
            import_labels(here, path)
    assert here.label_sets() == []


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_that_are_missing_are_missed_unless_a_part_is_meant(
    made: Store, here: Store, tmp_path: Path, kind: str
) -> None:
    path = exported(made, kind, tmp_path)
    kept = 6 if kind == "csv" else 4  # the header, and a label of two lines
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:kept]))
    with pytest.raises(MismatchError, match="4 features, and the card speaks of 5: it is cut, or a part"):
        import_labels(here, path)
    assert import_labels(here, path, part=True).n_features == 4


def test_a_missing_column_is_named(made: Store, here: Store, tmp_path: Path) -> None:
    for kind in KINDS:
        path = exported(made, kind, tmp_path)
        card = tmp_path / "card.json"
        card.write_text(json.dumps(build_card(made, 1)))
        if kind == "parquet":
            pq.write_table(pq.read_table(path).drop_columns(["score"]), path)
        else:
            path.write_text(path.read_text("utf-8").replace('"score":', '"mark":').replace(",score,", ",mark,"))
        with pytest.raises(FormatError, match="the column score is missing"):
            import_labels(here, path, card)


def test_a_card_that_does_not_belong(made: Store, here: Store, tmp_path: Path) -> None:
    path = exported(made, "jsonl", tmp_path)
    card = build_card(made, 1)
    other = tmp_path / "other.json"

    def refused(error: type[InputError], message: str, **changes: Any) -> None:
        other.write_text(json.dumps(card | changes))
        with pytest.raises(error, match=message):
            import_labels(here, path, other)

    refused(
        MismatchError, "line 1: subject is 'tiny', and the card says 'big'", subject=card["subject"] | {"id": "big"}
    )
    refused(MismatchError, "it was changed", recipe=card["recipe"] | {"seed": 7})
    refused(
        MismatchError, "the card speaks of 4", coverage=card["coverage"] | {"labeled": {"features": 2, "share": 0.04}}
    )
    refused(MismatchError, "does not belong to this file", corpus=card["corpus"] | {"n_tokens": 999})
    refused(FormatError, "sae is missing", sae=None)
    refused(FormatError, "recipe.hash is missing", recipe={"version": 2})
    refused(FormatError, "cannot read its recipe", recipe=card["recipe"] | {"contexts": {"new": 1}})
    another = "a value in it is of another kind"
    refused(FormatError, another, sae=card["sae"] | {"n_features": float("inf")})
    refused(FormatError, another, sae=card["sae"] | {"n_features": -1})
    refused(FormatError, another, sae=card["sae"] | {"n_features": 10**16})
    refused(FormatError, another, subject=card["subject"] | {"revision": 10**30})
    refused(FormatError, another, corpus=card["corpus"] | {"n_tokens": "many"})
    refused(FormatError, another, splits=card["splits"] | {"explain": 3.5})
    refused(FormatError, another, coverage={"labeled": 1})
    refused(FormatError, another, created_at="yesterday")
    other.write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        import_labels(here, path, other)
    path.with_name("labels.jsonl.card.json").unlink()
    with pytest.raises(NotFoundError, match="--card FILE"):
        import_labels(here, path)
    assert here.label_sets() == []


def test_what_is_no_label_set_is_refused(here: Store, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing of ours")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    for name, error in (
        ("notes.txt", FormatError),
        ("gone.csv", NotFoundError),
        ("", InputError),
        ("x.parquet", NotFoundError),
    ):
        with pytest.raises(error):
            import_labels(here, tmp_path / name)


def test_a_failure_while_storing_leaves_nothing(
    made: Store, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(made, "jsonl", tmp_path)
    monkeypatch.setattr("labeler.imports.labels._ROWS_AT_ONCE", 2)
    real, calls = store.save_rows_in, []

    def breaks(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(*given)

    monkeypatch.setattr(store, "save_rows_in", breaks)
    with pytest.raises(OSError, match="No space left"):
        import_labels(store, path)
    assert store.label_sets() == []
    monkeypatch.setattr(store, "save_rows_in", real)
    assert import_labels(store, path).n_features == 5


def test_the_command(run, made: Store, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = exported(made, "csv", tmp_path)
    done = run("import", "labels", path, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_features"] == 5
    assert "openai:m (imported)" in run("sets").out.replace("\n", " ")
    again = run("import", "labels", path)
    assert again.code == 2
    assert "here already" in again.err


def test_a_longer_file_needs_no_more_memory(here: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own memory: what is read goes by in batches."""
    monkeypatch.setattr("labeler.imports.labels._ROWS_AT_ONCE", 20)
    made, peaks = open_store(str(tmp_path / "made.db")), []
    made.label_set_for(manifest(), "/evidence", Recipe())
    made.save(1, [labeled(0, simulations=())])
    path = exported(made, "jsonl", tmp_path)
    (line,), card = lines_of(path), build_card(made, 1)
    context = {"text": "ab" * 500, "tokens": ["ab"] * 500, "activations": [1.5] * 500}
    for n in (100, 400):
        path.write_text(
            "".join(json.dumps({**line, "feature_index": i, "top_contexts": [context]}) + "\n" for i in range(n))
        )
        coverage = card["coverage"] | {"labeled": {"features": n, "share": 1.0}}
        path.with_name(path.name + ".card.json").write_text(
            json.dumps(card | {"sae": card["sae"] | {"n_features": n}, "coverage": coverage})
        )
        tracemalloc.start()
        import_labels(here, path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], f"{peaks[0]:,} bytes, then {peaks[1]:,}"


def test_blank_lines_are_no_rows(made: Store, here: Store, tmp_path: Path) -> None:
    path = exported(made, "jsonl", tmp_path)
    path.write_text("\n" + path.read_text("utf-8").replace("\n", "\n\n"), "utf-8")
    assert import_labels(here, path).n_features == 5


def test_rows_of_an_earlier_version_spell_the_side_of_a_hookpoint_otherwise(here: Store, tmp_path: Path) -> None:
    label_set = here.label_set_for(manifest(reads="input"), "/evidence", Recipe.from_names("openai:m"))
    here.save(label_set.id, [labeled(0), silent(2)])
    path = exported(here, "jsonl", tmp_path)
    now = lines_of(path)[0]["hookpoint"]
    assert now == f"{manifest()['hookpoint']}:input"
    path.write_text(path.read_text("utf-8").replace(now, now.replace(":input", " (input)")), "utf-8")
    done = import_labels(here, path)
    assert here.label_set(done.label_set).hookpoint == now
    path.write_text(path.read_text("utf-8").replace(" (input)", ""), "utf-8")
    with pytest.raises(MismatchError, match="hookpoint is"):
        import_labels(here, path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_said_stays_behind_and_that_is_said(run, made: Store, tmp_path: Path, kind: str) -> None:  # type: ignore[no-untyped-def]
    add_review(made, 1, 0, Verdict.CORRECTED, "ann", "a greeting")
    done = run("import", "labels", exported(made, kind, tmp_path))
    assert done.code == 0, done.err
    assert "left out: what people said of the labels (verdict, person_label, person)" in done.err
    assert "no label set has" not in done.err
