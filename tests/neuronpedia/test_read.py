from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeler.errors import FormatError, InputError, MismatchError, NotFoundError
from labeler.evidence.choose import choose_evidence
from labeler.evidence.directions import read_output
from labeler.evidence.store import EvidenceFolder
from labeler.export.card import build_card, card_markdown
from labeler.label_sets.missing import label_missing
from labeler.neuronpedia.check import check_tree
from labeler.neuronpedia.labels import read_labels, save_labels
from labeler.neuronpedia.read import Tree, find_tree, read_tree
from labeler.neuronpedia.write import write_tree
from labeler.pipeline import label_features
from labeler.recipe import ContextsConfig, Recipe
from labeler.records import Context, Source, Split, State
from labeler.store import Store
from labeler.views import feature_view, read_results
from tests.neuronpedia.conftest import (
    IN_WORDS,
    LOOKUPS,
    NEGATIVE,
    SOURCE,
    UNDEFINED,
    World,
    change,
    read_rows,
    write_rows,
)
from tests.planted import N_FEATURES, meaning

FEW = Recipe(contexts=ContextsConfig(min_firing_windows=(3, 3)))


@pytest.fixture
def evidence(whole_tree: Path, tmp_path: Path) -> EvidenceFolder:
    read_tree(find_tree(whole_tree), tmp_path / "evidence")
    return EvidenceFolder(tmp_path / "evidence")


def texts(contexts: tuple[Context, ...]) -> list[tuple[str, tuple[float, ...]]]:
    return [(c.text, c.activations) for c in contexts]


def test_contexts_come_back_as_they_were(evidence: EvidenceFolder, world: World) -> None:
    gathered = EvidenceFolder(world.evidence)
    for feature in range(N_FEATURES):
        top = evidence.contexts(evidence.windows(feature, Source.TOP, Split.EXPLAIN), Source.TOP, Split.EXPLAIN)
        windows = gathered.windows(feature, Source.TOP, Split.EXPLAIN)
        expected = gathered.contexts(windows.take(range(min(3, len(windows)))), Source.TOP, Split.EXPLAIN)
        assert texts(top) == texts(expected)
        drawn = evidence.contexts(
            evidence.windows(feature, Source.SAMPLED, Split.HELD_OUT), Source.SAMPLED, Split.HELD_OUT
        )
        sampled = gathered.windows(feature, Source.SAMPLED, Split.HELD_OUT)
        known = gathered.contexts(sampled.take(range(min(30, len(sampled)))), Source.SAMPLED, Split.HELD_OUT)
        assert sorted(texts(tuple(c for c in drawn if c.peak > 0))) == sorted(texts(known))
        assert {c.document for c in top}.isdisjoint({c.document for c in drawn})
    held_out = np.asarray(evidence.corpus.held_out)
    assert 0 < held_out.sum() < len(held_out)


def test_what_the_tree_does_not_say_is_absent_and_never_zero(evidence: EvidenceFolder, world: World) -> None:
    statistics, counted = evidence.statistics(2), EvidenceFolder(world.evidence).statistics(2)
    assert statistics.density == counted.density
    assert statistics.max == counted.max
    assert (statistics.n_firings, statistics.n_tokens, statistics.n_windows, statistics.mean) == (None,) * 4
    assert statistics.histogram == ()
    for split in Split:
        assert len(evidence.windows(2, Source.RANDOM, split)) == 0
    assert evidence.statistics(5).n_firings == 0, "they say that it fires nowhere, and show no context"
    absent = " ".join(evidence.manifest["by_others"]["absent"])
    assert "RANDOM" in absent
    assert "how often" in absent


def test_output_tokens_come_back(evidence: EvidenceFolder, world: World) -> None:
    gathered = EvidenceFolder(world.evidence)
    mine, theirs = read_output(evidence, 3), read_output(gathered, 3)
    assert mine is not None
    assert theirs is not None
    assert [evidence.vocabulary.text(t) for t, _ in mine.promoted] == [
        gathered.vocabulary.text(t) for t, _ in theirs.promoted
    ]
    assert [v for _, v in mine.suppressed] == [v for _, v in theirs.suppressed]
    assert mine.histogram == theirs.histogram
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=1e-5)


def test_the_pipeline_reads_it(whole_tree: Path, store: Store, tmp_path: Path) -> None:
    write_tree(store, IN_WORDS, tmp_path / "tree")  # with 20 TOP contexts a feature
    read_tree(find_tree(tmp_path / "tree"), tmp_path / "evidence")
    folder = EvidenceFolder(tmp_path / "evidence")
    recipe = Recipe()

    async def label() -> dict[int, Any]:
        return {r.feature_index: r async for r in label_features(folder, range(8), recipe, None)}

    results = asyncio.run(label())
    assert results[5].state is State.SILENT
    assert results[4].state is State.RARE
    best = results[0]
    assert best.label.table is not None
    assert max(best.label.table.by_token.values()) == pytest.approx(meaning(0)["Q"], rel=1e-3)
    score = best.score("simulation")
    assert score.value > 0.99
    assert score.n == 30, "of the activation intervals, silent ones among them"
    assert best.score("simulation_weighted").value is None
    assert best.score("simulation_random").value is None
    shown = feature_view(folder, 0, store).explain
    assert {c.split for c in shown} == {Split.EXPLAIN}
    assert {s.context.split for s in best.simulations} == {Split.HELD_OUT}


def test_parts_that_are_set_aside_are_of_other_contexts(store: Store, tmp_path: Path) -> None:
    write_tree(store, IN_WORDS, tmp_path / "tree")
    read_tree(find_tree(tmp_path / "tree"), tmp_path / "evidence")
    folder = EvidenceFolder(tmp_path / "evidence")
    config = ContextsConfig(aside=("choose", "show", "compare"), held_out_hard=3, explain_hard=3)
    chosen = choose_evidence(folder, 3, config)
    parts = [chosen.explain, chosen.held_out, chosen.choose, chosen.show, chosen.compare]
    assert all(len(part) >= 2 for part in parts)
    documents = [{c.document for c in part} for part in parts]
    assert sum(map(len, documents)) == len(set().union(*documents)), "no document is in two of them"
    assert {c.source for part in parts[1:] for c in part} == {Source.SAMPLED}
    assert all(c.weight is None for part in parts for c in part)


def test_labels_come_back_with_their_scores(evidence: EvidenceFolder, whole_tree: Path, store: Store) -> None:
    before = {
        r.feature_index: r
        for r in read_results(EvidenceFolder(store.label_set(IN_WORDS).evidence_path), store, IN_WORDS)
    }
    sets = save_labels(store, find_tree(whole_tree), evidence.folder)
    assert list(sets.values()) == [9]
    (label_set,) = sets
    info = store.label_set(label_set)
    assert (info.explainer, info.simulator) == ("openai:m", "openai:m")
    assert (info.subject, info.n_features) == (store.label_set(IN_WORDS).subject, N_FEATURES)
    after = {r.feature_index: r for r in read_results(evidence, store, label_set)}
    assert sorted(after) == list(range(9)), "silent and failed features are not in a tree"
    for index, result in after.items():
        assert result.label is not None
        assert before[index].label is not None
        assert result.label.text == before[index].label.text
        assert result.label.explainer == before[index].label.explainer
        assert result.scores == tuple(s for s in before[index].scores if s.value is not None)
        assert result.usage.cost_usd is None, "unknown is not zero"
        assert result.statistics.n_firings == (0 if index == 5 else None), "only of a silent one they say it"
    score = after[NEGATIVE].score("simulation")
    assert score is not None
    assert score.value == -0.25
    assert after[UNDEFINED].score("simulation") is None
    row = store.row(label_set, 3)
    assert row is not None
    assert row["n_firings"] is None
    assert row["density"] == EvidenceFolder(store.label_set(IN_WORDS).evidence_path).statistics(3).density


def test_reading_it_again_changes_nothing(evidence: EvidenceFolder, whole_tree: Path, store: Store) -> None:
    first = save_labels(store, find_tree(whole_tree), evidence.folder)
    read_tree(find_tree(whole_tree), evidence.folder)
    assert save_labels(store, find_tree(whole_tree), evidence.folder) == first
    with pytest.raises(MismatchError, match="in use"):
        read_tree(find_tree(whole_tree), evidence.folder, window_tokens=8)


def test_a_tree_of_labels_alone_is_written_from_evidence_of_others(
    evidence: EvidenceFolder, whole_tree: Path, store: Store, tmp_path: Path
) -> None:
    (label_set,) = save_labels(store, find_tree(whole_tree), evidence.folder)
    write_tree(store, label_set, tmp_path / "again")
    assert check_tree(tmp_path / "again").problems == []
    assert sorted(p.name for p in (tmp_path / "again" / SOURCE).iterdir() if p.is_dir()) == ["explanations", "scores"]
    for table in ("explanations", "scores"):
        file = Path(table) / "batch-0.jsonl.gz"
        one, other = read_rows(tmp_path / "again" / SOURCE / file), read_rows(whole_tree / SOURCE / file)
        names = ("description", "typeName", "explanationModelName", "value", "jsonDetails", "explanationScoreTypeName")
        assert [[r.get(n) for n in names] for r in one] == [[r.get(n) for n in names] for r in other]


def test_the_card_says_what_is_not_known(evidence: EvidenceFolder, whole_tree: Path, store: Store) -> None:
    (theirs,) = save_labels(store, find_tree(whole_tree), evidence.folder)
    text = card_markdown(build_card(store, theirs))
    assert "Others made them: explainer openai:m, method labeler_max-activation-2" in text
    assert "how often each feature fires" in text
    ours = store.label_set_for(evidence.manifest, str(evidence.folder), FEW)
    asyncio.run(label_missing(evidence, range(4), FEW, None, store, ours))
    text = card_markdown(build_card(store, ours.id))
    assert "no held-out TOP or RANDOM windows" in text
    assert "as others drew them" in text


def theirs(tree: Path) -> Path:
    """The same tree as others would write it: no notes, no scores, columns of their own, several labels a feature."""
    base = tree / SOURCE
    for name in ("release", "model", "sourceset", "source"):
        (base / f"{name}.jsonl").unlink()
    for path in base.glob("scores/*"):
        path.unlink()
    (base / "scores").rmdir()
    for table in ("features", "activations"):
        file = base / table / "batch-0.jsonl.gz"
        write_rows(
            file, [{k: v for k, v in row.items() if k not in ("createdAt", "dataIndex")} for row in read_rows(file)]
        )
    row = read_rows(base / "explanations/batch-0.jsonl.gz")[2]
    made = [
        ("oai_token-act-pair", "gpt-4o-mini", "one"),
        ("oai_token-act-pair", "gpt-4o-mini", "two"),
        (None, None, "a person's"),
    ]
    rows = [{**row, "id": text, "typeName": t, "explanationModelName": m, "description": text} for t, m, text in made]
    write_rows(base / "explanations/batch-0.jsonl.gz", rows)
    return tree


def test_a_tree_of_others(tree: Path, store: Store, tmp_path: Path) -> None:
    found = find_tree(theirs(tree))
    manifest = read_tree(found, tmp_path / "evidence")
    assert manifest["subject"]["id"] == "subject"
    assert manifest["sae"]["sha256"] == "unknown:subject/3-sae"
    assert manifest["sae"]["d_in"] is None
    sets = save_labels(store, found, tmp_path / "evidence")
    infos = [store.label_set(s) for s in sets]
    assert [(i.explainer, n) for i, n in zip(infos, sets.values(), strict=True)] == [
        ("gpt-4o-mini", 1),
        ("gpt-4o-mini", 1),
        ("unknown", 1),
    ]
    assert store.recipe_of(infos[0].id)["explainer"]["prompt_version"] == "oai_token-act-pair"
    assert card_markdown(build_card(store, infos[2].id))


def test_a_label_that_is_too_long_costs_its_own_feature_alone(tree: Path, store: Store, tmp_path: Path) -> None:
    file = tree / SOURCE / "explanations/batch-0.jsonl.gz"
    rows = read_rows(file)
    rows[0]["description"], rows[1]["description"] = "x" * 200, "x" * 100_000
    write_rows(file, rows)
    read_tree(find_tree(tree), tmp_path / "evidence")
    (label_set,) = save_labels(store, find_tree(tree), tmp_path / "evidence")
    fits, long, other = (store.row(label_set, int(row["index"])) for row in rows[:3])
    assert fits is not None
    assert long is not None
    assert other is not None
    assert (fits["state"], fits["label"]) == ("labeled", "x" * 200)
    assert (long["state"], long["label"]) == ("failed", None)
    assert long["reason"] == "its label has 100,000 characters, and at most 200 are kept"
    assert other["label"] == rows[2]["description"]


def test_a_score_of_others_keeps_its_name_and_value(tree: Path) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row.update(explanationScoreTypeName="eleuther_fuzz", value=0.75, jsonDetails="[]")

    change(tree / SOURCE / "scores/batch-0.jsonl.gz", edit)
    _, _, scores = next(iter(read_labels(find_tree(tree))))
    assert {(who, s.name, s.value, s.low) for who, s in scores} == {("m", "eleuther_fuzz", 0.75, None)}


def test_scores_find_their_explanation_in_any_order(tree: Path) -> None:
    change(tree / SOURCE / "scores/batch-0.jsonl.gz", lambda rows: rows.reverse())
    n_before = {placed.row["id"]: [] for _, placed, _ in read_labels(find_tree(tree))}
    for row in read_rows(tree / SOURCE / "scores/batch-0.jsonl.gz"):
        n_before[row["explanationId"]].append(row["value"])
    found = {
        p.row["id"]: [max(0.0, s.value or 0.0) for _, s in scores] for _, p, scores in read_labels(find_tree(tree))
    }
    assert found == n_before


def test_labels_are_read_and_checked_in_memory_that_hardly_grows(tree: Path) -> None:
    """Python's own memory. What is kept of a row is a hash or two: 16 bytes each, and a copy while they are sorted."""
    peaks: dict[Callable[[], object], list[int]] = {
        lambda: sum(1 for _ in read_labels(Tree(tree / SOURCE))): [],
        lambda: check_tree(tree): [],
    }
    for n in (500, 2500):
        labels_alone(tree, n)
        for read, measured in peaks.items():
            tracemalloc.start()
            read()
            measured.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert check_tree(tree).problems == []
    for few, many in peaks.values():
        assert (many - few) / 2000 < 100, f"bytes a feature; {few:,}, then {many:,}"


def labels_alone(tree: Path, n: int) -> None:
    """As many features with an explanation and a score."""
    for table in ("explanations", "scores"):
        path = tree / SOURCE / table / "batch-0.jsonl.gz"
        row = read_rows(path)[0]
        of = {"explanations": ("id", "index"), "scores": ("id", "explanationId")}[table]
        write_rows(path, [{**row, **dict.fromkeys(of, str(i))} for i in range(n)])
    for table in ("features", "activations"):
        shutil.rmtree(tree / SOURCE / table, ignore_errors=True)


def test_a_density_that_nobody_says_is_unknown(tree: Path, tmp_path: Path) -> None:
    change(tree / SOURCE / "features/batch-0.jsonl.gz", lambda rows: [row.update(frac_nonzero=0) for row in rows])
    read_tree(find_tree(tree), tmp_path / "evidence")
    folder = EvidenceFolder(tmp_path / "evidence")
    assert folder.statistics(2).density is None, "a feature that fires has a density above 0"
    assert np.isnan(folder.densities[2])
    assert folder.manifest["by_others"]["n_without_density"] > 20
    assert folder.statistics(5).density == 0.0


def test_long_contexts_are_cut_around_their_peak(tree: Path, tmp_path: Path) -> None:
    values = [0.0] * 300
    values[200], values[250] = 3.0, 1.0

    def edit(rows: list[dict[str, Any]]) -> None:
        rows[:] = [{**rows[0], "tokens": [f"t{i}" for i in range(300)], "values": values}, rows[-1]]

    change(tree / SOURCE / "activations/batch-0.jsonl.gz", edit)
    read_tree(find_tree(tree), tmp_path / "whole")
    context = one_context(tmp_path / "whole")
    assert len(context.tokens) == 255
    read_tree(find_tree(tree), tmp_path / "cut", window_tokens=32)
    context = one_context(tmp_path / "cut")
    assert len(context.tokens) == 32
    assert context.tokens[24] == "t200", "the peak is at three quarters"
    assert context.activations[24] == 3.0
    assert sum(context.activations) == 3.0
    with pytest.raises(InputError, match="choose 4 to 255"):
        read_tree(find_tree(tree), tmp_path / "other", window_tokens=300)


def one_context(path: Path) -> Context:
    folder = EvidenceFolder(path)
    (context,) = folder.contexts(folder.windows(0, Source.TOP, Split.EXPLAIN), Source.TOP, Split.EXPLAIN)
    return context


def _bad_line(path: Path) -> None:
    text = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*text[:5], text[5][:50]])))


BAD = {
    "line 6: not JSON, or cut": lambda base: _bad_line(base / "activations/batch-0.jsonl.gz"),
    "batch-0.jsonl.gz: is missing": lambda base: (base / "activations/batch-0.jsonl.gz").rename(
        base / "activations/batch-1.jsonl.gz"
    ),
    "line 1: not a whole gzip file": lambda base: (base / "activations/batch-0.jsonl.gz").write_bytes(b"plain"),
    "line 2: the same 'id' as batch-0.jsonl.gz, line 1": lambda base: change(
        base / "activations/batch-0.jsonl.gz", lambda rows: rows[1].update(id=rows[0]["id"])
    ),
    "line 3: differs from the first line of the file in 'extra'": lambda base: change(
        base / "features/batch-0.jsonl.gz", lambda rows: rows[2].update(extra=1)
    ),
    "line 4: 'tokens' and 'values' are not lists of equal length": lambda base: change(
        base / "activations/batch-0.jsonl.gz", lambda rows: rows[3].update(tokens=["a"])
    ),
    "line 4: 'values' holds what is no number": lambda base: change(
        base / "activations/batch-0.jsonl.gz", lambda rows: rows[3].update(values=["x"] * len(rows[3]["values"]))
    ),
    "line 4: 'index' is -1: expected a feature's number": lambda base: change(
        base / "activations/batch-0.jsonl.gz", lambda rows: rows[3].update(index=-1)
    ),
    "line 2: is of subject/9-other": lambda base: change(
        base / "activations/batch-0.jsonl.gz", lambda rows: rows[1].update(layer="9-other")
    ),
    "feature 40 of an SAE that has 32": lambda base: change(
        base / "activations/batch-0.jsonl.gz", lambda rows: rows[1].update(index="40")
    ),
    "'value' is 3: expected a number within 0..1": lambda base: change(
        base / "scores/batch-0.jsonl.gz", lambda rows: rows[1].update(value=3)
    ),
    "which is not in the tree": lambda base: change(
        base / "scores/batch-0.jsonl.gz", lambda rows: rows[1].update(explanationId="nowhere")
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_trees_are_refused_by_place_and_nothing_is_written(
    tree: Path, run: Any, message: str, tmp_path: Path
) -> None:
    BAD[message](tree / SOURCE)
    ran = run("import", "neuronpedia", tree, "--out", tmp_path / "evidence")
    assert ran.code == 2, ran.out
    assert message in ran.err
    if "SAE that has" not in message:
        assert "batch-" in ran.err or "scores" in ran.err
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("evidence")] == []
    if (tmp_path / "labeler.db").exists():
        assert json.loads(run("sets", "--json").out) == []


def test_the_commands_there_and_back(world: World, store: Store, run: Any, tmp_path: Path) -> None:
    database = store.database.name.removeprefix("sqlite:///")
    ran = run(
        "export",
        "--format",
        "neuronpedia",
        "--label-set",
        LOOKUPS,
        "--out",
        tmp_path / "t",
        "--source",
        "3-mine",
        "--db",
        database,
    )
    assert ran.code == 0, ran.err
    assert run("check", "neuronpedia", tmp_path / "t").code == 0
    ran = run("import", "neuronpedia", tmp_path / "t", "--out", tmp_path / "e", "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert list(told["label_sets"].values()) == [sum(r["label"] is not None for r in store.rows(LOOKUPS))]
    assert run("label", tmp_path / "e").code == 0
    assert "windows that are known" in run("show", tmp_path / "e", 2).out
    ran = run("import", "neuronpedia", tmp_path / "t", "--out", tmp_path / "e2", "--no-labels")
    assert ran.code == 0
    assert "RANDOM and HARD contexts" in ran.out
    ran = run("export", "--format", "jsonl", "--out", tmp_path / "x.jsonl", "--source", "3-mine", "--db", database)
    assert ran.code == 2


def test_where_there_is_no_tree(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="holds no <model>/<source>/activations"):
        find_tree(tmp_path / "empty")
    assert find_tree(tree / SOURCE).source == "3-sae"
    assert find_tree(tree / "v1").model == "subject"
    (tree / "v1/subject/4-sae/activations").mkdir(parents=True)
    with pytest.raises(InputError, match="holds 2 sources"):
        find_tree(tree)
    with pytest.raises(FormatError, match=r"holds no batch-<n>\.jsonl\.gz"):
        read_tree(find_tree(tree / "v1/subject/4-sae"), tmp_path / "out")
