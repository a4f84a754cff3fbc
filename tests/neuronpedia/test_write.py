from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.errors import InputError, NotFoundError
from labeler.evidence.directions import read_output
from labeler.evidence.store import EvidenceFolder, Windows
from labeler.neuronpedia.check import check_tree
from labeler.neuronpedia.layout import BOT, KEYS, TOP, Place, place_of, row_id
from labeler.neuronpedia.rows import N_HELD_OUT, N_SILENT, octave_of
from labeler.neuronpedia.write import _Batches, write_tree
from labeler.records import Source, Split
from labeler.store import Store
from tests.neuronpedia.conftest import IN_WORDS, LOOKUPS, NEGATIVE, SOURCE, UNDEFINED, WORDS, World, read_rows
from tests.planted import N_FEATURES


def rows_of(tree: Path, table: str) -> list[dict[str, Any]]:
    return read_rows(tree / SOURCE / table / "batch-0.jsonl.gz")


def test_the_tree_keeps_every_rule(whole_tree: Path) -> None:
    checked = check_tree(whole_tree)
    assert checked.problems == []
    assert checked.rows["features"] == N_FEATURES
    assert checked.rows["explanations"] == 9
    assert {p.name for p in (whole_tree / "v1").iterdir()} == {"config", "subject"}


@pytest.mark.parametrize("table", KEYS)
def test_rows_have_the_columns_of_their_table_in_order(whole_tree: Path, table: str) -> None:
    assert all(tuple(row) == KEYS[table] for row in rows_of(whole_tree, table))


def test_facts_are_those_of_the_evidence(whole_tree: Path, world: World) -> None:
    folder = EvidenceFolder(world.evidence)
    for row in rows_of(whole_tree, "features"):
        index = int(row["index"])
        statistics, output = folder.statistics(index), read_output(folder, index)
        assert row["frac_nonzero"] == statistics.density
        assert row["maxActApprox"] == statistics.max
        assert sum(row["freq_hist_data_bar_heights"]) == statistics.n_firings
        assert output is not None
        assert row["pos_str"] == [folder.vocabulary.text(t) for t, _ in output.promoted]
        assert row["neg_values"] == [logit for _, logit in output.suppressed]
        assert row["logits_hist_data_bar_heights"] == list(output.histogram)
        assert row["logits_hist_data_bar_values"][0] > output.low
        assert row["logits_hist_data_bar_values"][-1] < output.high


def test_top_is_of_explain_documents_and_the_other_groups_of_held_out_ones(whole_tree: Path, world: World) -> None:
    folder = EvidenceFolder(world.evidence)
    by_feature: dict[int, list[dict[str, Any]]] = {}
    for row in rows_of(whole_tree, "activations"):
        by_feature.setdefault(int(row["index"]), []).append(row)
    held_out = np.asarray(folder.corpus.held_out)
    for row in (row for rows in by_feature.values() for row in rows):
        document = int(folder.corpus.document_of(np.array([int(row["dataIndex"])]))[0])
        assert held_out[document] == (row["binContains"] != TOP)
    of_a = by_feature[2]
    top = [row for row in of_a if row["binContains"] == TOP]
    expected = folder.windows(2, Source.TOP, Split.EXPLAIN).take(range(3))
    assert [row["values"] for row in top] == [shortest(expected, i) for i in range(3)]
    assert [row["tokens"] for row in top] == [
        list(c.tokens) for c in folder.contexts(expected, Source.TOP, Split.EXPLAIN)
    ]
    firing = [row for row in of_a if row["binContains"] != TOP and row["maxValue"] > 0]
    silent = [row for row in of_a if row["maxValue"] == 0]
    assert 0 < len(firing) <= N_HELD_OUT
    assert len(silent) <= N_SILENT
    statistics = folder.statistics(2)
    for row in firing:
        assert row["binMin"] <= row["maxValue"] < row["binMax"]
        assert row["binContains"] == octave_of(row["maxValue"], statistics)[2]
    assert all(row["binContains"] == 1 - (statistics.density or 0) for row in silent)
    assert 5 not in by_feature, "a silent feature has no contexts"


def shortest(windows: Windows, row: int) -> list[float]:
    """The activations of a window as JSON has them: the shortest text of each float32."""
    return [float(str(v)) for v in windows.activations[row, : windows.length[row]]]


def test_shares_of_the_octaves_add_up_to_the_density(world: World) -> None:
    statistics = EvidenceFolder(world.evidence).statistics(2)
    octaves = {octave_of(peak, statistics) for peak in (1.0, 1.9, 2.0, 3.0)}
    assert {o[:2] for o in octaves} == {(1.0, 2.0), (2.0, 4.0)}
    assert sum(o[2] for o in octaves) == pytest.approx(statistics.density)
    assert octave_of(1e-6, statistics)[:2] == (0.0, 2.0**-10)
    assert octave_of(5000.0, statistics)[0] == 2.0**10


def test_labels_and_scores_are_those_of_the_label_set(whole_tree: Path) -> None:
    explanations = {int(row["index"]): row for row in rows_of(whole_tree, "explanations")}
    assert sorted(explanations) == list(range(9)), "neither silent nor failed features have one"
    row = explanations[1]
    assert row["description"] == "letters such as 1: “ä” and \\n"
    assert (row["typeName"], row["explanationModelName"], row["authorId"]) == ("labeler_max-activation-2", "m", BOT)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for score in rows_of(whole_tree, "scores"):
        scores.setdefault(score["explanationId"], {})[score["explanationScoreTypeName"]] = score
    main = scores[explanations[3]["id"]]["labeler_simulation"]
    assert main["value"] == pytest.approx(0.3)
    assert main["explanationScoreModelName"] == "m"
    details = json.loads(main["jsonDetails"])
    assert (details["low"], details["high"]) == pytest.approx((0.2, 0.4))
    assert (details["null_z"], details["null_p"], details["baseline_token_lookup"]) == (3.0, 0.01, 0.4)
    negative = scores[explanations[NEGATIVE]["id"]]["labeler_simulation"]
    assert negative["value"] == 0.0
    assert json.loads(negative["jsonDetails"])["value"] == -0.25
    assert "labeler_simulation" not in scores[explanations[UNDEFINED]["id"]], "an undefined score has no line"


def test_the_same_label_set_gives_the_same_bytes(store: Store, whole_tree: Path, tmp_path: Path) -> None:
    write_tree(store, IN_WORDS, tmp_path / "again", n_top=3)
    files = [p.relative_to(whole_tree) for p in whole_tree.rglob("*") if p.is_file()]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (whole_tree / file).read_bytes(), file


def test_look_up_labels_say_that_no_model_made_them(store: Store, tmp_path: Path) -> None:
    write_tree(store, LOOKUPS, tmp_path / "out", model="toy_model", source="0-my-set")
    assert check_tree(tmp_path / "out").problems == []
    row = read_rows(tmp_path / "out/v1/toy_model/0-my-set/explanations/batch-0.jsonl.gz")[0]
    assert (row["typeName"], row["explanationModelName"]) == ("labeler_lookup-2", "labeler-token-lookup")
    assert (row["modelId"], row["layer"]) == ("toy_model", "0-my-set")


def test_what_stands_in_the_way_is_said_and_nothing_is_left_behind(store: Store, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(InputError, match="new or empty folder"):
        write_tree(store, IN_WORDS, tmp_path / "used")
    with pytest.raises(InputError, match="expected <layer>-<set>"):
        write_tree(store, IN_WORDS, tmp_path / "out", source="my-set")
    with pytest.raises(InputError, match="letters, digits"):
        write_tree(store, IN_WORDS, tmp_path / "out", model="a/b")
    with pytest.raises(NotFoundError, match="label set 99"):
        write_tree(store, 99, tmp_path / "out")
    store.label_set_for(store.manifest_of(IN_WORDS), str(tmp_path / "moved"), WORDS)
    with pytest.raises(NotFoundError, match="moved"):
        write_tree(store, IN_WORDS, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["used"]


def test_files_begin_anew_after_so_many_features(tmp_path: Path) -> None:
    with _Batches(tmp_path / "rows", per_file=2) as batches:
        for feature in range(5):
            batches.add([{"feature": feature, "n": n} for n in range(feature)])
    written = [read_rows(path) for path in sorted((tmp_path / "rows").iterdir())]
    assert [{row["feature"] for row in rows} for rows in written] == [{1, 2}, {3, 4}]
    with _Batches(tmp_path / "none", per_file=2) as batches:
        batches.add([])
    assert not (tmp_path / "none").exists(), "their import cannot read a file without a line"


def test_names_of_an_sae() -> None:
    assert place_of("EleutherAI/pythia-70m", "gpt_neox.layers.12.mlp (input)", "hf:a/My SAE.v2@main") == Place(
        "pythia-70m", 12, "my-sae-v2"
    )
    assert place_of("gpt2", "transformer.wte", "sae") is None
    assert row_id("a", 1) == row_id("a", 1) != row_id("a", 11)
    assert len(row_id("a")) == 25


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kilobytes on Linux alone")
def test_memory_does_not_grow_with_features(tmp_path: Path) -> None:
    code = (
        "import sys, resource, pathlib\n"
        "from labeler.neuronpedia.write import _Batches\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "row = {'tokens': ['abc'] * 32, 'values': [0.5] * 32}\n"
        "with _Batches(pathlib.Path(sys.argv[1]) / 'rows', 1024) as batches:\n"
        "    for _ in range(1024): batches.add([row] * 10)\n"
        "    before = peak()\n"
        "    for _ in range(4 * 1024): batches.add([row] * 10)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4_000, "KB"
