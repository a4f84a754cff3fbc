"""Planted features through the whole pipeline: the right label scores high, a wrong one does not, a broken pipeline fails."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeler.evidence import choose
from labeler.evidence.merge import merge_shards
from labeler.evidence.store import EvidenceFolder
from labeler.export.export import export_label_set
from labeler.label_sets.missing import label_missing
from labeler.pipeline import label_feature, label_features
from labeler.recipe import ContextsConfig, Recipe
from labeler.records import FeatureEvidence, Label, LabeledFeature, Simulation, Split, State, TokenTable
from labeler.score.scores import simulation_scores
from labeler.score.simulate_by_lookup import predict_all
from labeler.steps.null import NullLabels
from labeler.steps.read import read_evidence
from labeler.store import open_store
from tests.gathering import gather
from tests.planted import CHARACTERS, N_FEATURES, Planted, meaning

RECIPE = Recipe()
PLANTED = (0, 1, 2, 3, 6, 7, 12)


@pytest.fixture(scope="module")
def folder(planted_evidence: Path) -> EvidenceFolder:
    return EvidenceFolder(planted_evidence)


@pytest.fixture(scope="module")
def null(folder: EvidenceFolder) -> NullLabels:
    return NullLabels(folder, RECIPE)


def labelled(folder: EvidenceFolder, feature: int, null: NullLabels) -> LabeledFeature:
    return asyncio.run(label_feature(read_evidence(folder, feature, RECIPE), RECIPE, None, null.for_feature(feature)))


def table_of(meanings: dict[str, float]) -> TokenTable:
    return TokenTable({1 + CHARACTERS.index(c): strength for c, strength in meanings.items()})


def score_of(table: TokenTable, evidence: FeatureEvidence) -> float:
    simulations = [Simulation(c, table.predict(c.token_ids)) for c in evidence.held_out]
    value = simulation_scores(simulations)[0].value
    assert value is not None
    return value


def check_honest(folder: EvidenceFolder, result: LabeledFeature, evidence: FeatureEvidence, feature: int) -> None:
    """What holds of every result of a pipeline that is not broken, for a feature whose meaning is known."""
    assert result.state is State.LABELED
    simulation = result.score("simulation")
    assert simulation is not None
    assert simulation.value is not None
    assert simulation.value > 0.95
    assert score_of(table_of(meaning(feature)), evidence) > 0.95
    wrong = dict(table_of(dict.fromkeys(CHARACTERS, 1.0)).by_token.items()) | dict.fromkeys(
        table_of(meaning(feature)).by_token, 0.0
    )
    assert score_of(TokenTable(wrong), evidence) < 0.15
    held_out = np.asarray(folder.corpus.held_out)
    shown = {c.document for c in evidence.explain}
    scored = {s.context.document for s in result.simulations}
    assert not held_out[sorted(shown)].any(), "the explainer saw held-out documents"
    assert held_out[sorted(scored)].all(), "the label was scored on documents that the explainer may see"


@pytest.mark.parametrize("feature", PLANTED)
def test_the_right_label_is_found_and_a_wrong_one_fails(folder: EvidenceFolder, null: NullLabels, feature: int) -> None:
    result = labelled(folder, feature, null)
    check_honest(folder, result, read_evidence(folder, feature, RECIPE), feature)
    assert result.label is not None
    for character in meaning(feature):
        shown = "·" if character == " " else character.lower()
        assert f"`{shown}`" in result.label.text.lower()


def test_labels_of_other_features_score_near_zero(folder: EvidenceFolder, null: NullLabels) -> None:
    result = labelled(folder, 0, null)
    simulation = result.score("simulation")
    assert simulation is not None
    assert simulation.null_n >= 20
    assert simulation.null_p == pytest.approx(1 / (simulation.null_n + 1))
    assert simulation.null_z is not None
    assert simulation.null_z > 5
    assert simulation.baseline_token_lookup == pytest.approx(simulation.value)


def test_the_null_never_holds_the_feature_itself(folder: EvidenceFolder, null: NullLabels) -> None:
    for feature in range(N_FEATURES):
        others = null.for_feature(feature)
        own = read_evidence(folder, feature, RECIPE).lookup
        assert own is None or own not in others
        assert len(others) >= 20


def test_silent_and_rare_features_say_why(folder: EvidenceFolder, null: NullLabels) -> None:
    silent, rare = labelled(folder, 5, null), labelled(folder, 4, null)
    assert (silent.state, rare.state) == (State.SILENT, State.RARE)
    assert silent.reason is not None
    assert "never fired" in silent.reason
    assert rare.reason is not None
    assert "at least 10 are needed" in rare.reason
    assert silent.scores == rare.scores == ()


def test_shifted_activations_are_caught(planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that attributes each activation to the next token, as an off-by-one at the BOS token does."""
    from labeler.evidence.state import GatherState

    update = GatherState.update

    def shifted(self: GatherState, batch, token, *rest, **apart) -> None:  # type: ignore[no-untyped-def]
        update(self, batch, np.minimum(token + 1, batch.n_tokens - 1), *rest, **apart)

    monkeypatch.setattr(GatherState, "update", shifted)
    broken = EvidenceFolder(gather(planted, tmp_path / "shifted"))
    evidence = read_evidence(broken, 0, RECIPE)
    result = labelled(broken, 0, NullLabels(broken, RECIPE))
    with pytest.raises(AssertionError):
        check_honest(broken, result, evidence, 0)


def test_swapped_splits_are_caught(folder: EvidenceFolder, null: NullLabels, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = read_evidence(folder, 0, RECIPE)
    swapped = replace(evidence, explain=evidence.held_out, held_out=evidence.explain)
    result = asyncio.run(label_feature(swapped, RECIPE, None, null.for_feature(0)))
    with pytest.raises(AssertionError):
        check_honest(folder, result, swapped, 0)


def test_scoring_on_what_was_explained_is_caught(folder: EvidenceFolder, null: NullLabels) -> None:
    evidence = read_evidence(folder, 0, RECIPE)
    leaking = replace(evidence, held_out=(*evidence.held_out, evidence.explain[0]))
    result = asyncio.run(label_feature(leaking, RECIPE, None, null.for_feature(0)))
    with pytest.raises(AssertionError, match="explainer may see"):
        check_honest(folder, result, leaking, 0)


def test_the_lookup_label_learns_nothing_from_held_out_windows(
    folder: EvidenceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Split] = []
    windows = EvidenceFolder.windows

    def watched(self: EvidenceFolder, feature: int, source, split: Split):  # type: ignore[no-untyped-def]
        asked.append(split)
        return windows(self, feature, source, split)

    monkeypatch.setattr(EvidenceFolder, "windows", watched)
    choose.explain_windows(folder, 0, (), 0.5)
    assert set(asked) == {Split.EXPLAIN}


def test_many_features_come_out_once_each(folder: EvidenceFolder) -> None:
    async def run() -> list[LabeledFeature]:
        return [r async for r in label_features(folder, range(N_FEATURES), RECIPE, None, at_once=5)]

    results = asyncio.run(run())
    assert sorted(r.feature_index for r in results) == list(range(N_FEATURES))
    assert {r.feature_index for r in results if r.state is State.SILENT} == {5}
    assert {r.feature_index for r in results if r.state is State.RARE} == {4}


def test_results_do_not_depend_on_the_order_or_company_of_features(folder: EvidenceFolder) -> None:
    async def run(features: list[int], at_once: int) -> dict[int, LabeledFeature]:
        return {r.feature_index: r async for r in label_features(folder, features, RECIPE, None, at_once=at_once)}

    together = asyncio.run(run(list(range(12)), 8))
    alone = asyncio.run(run([9], 1))
    backwards = asyncio.run(run(list(reversed(range(12))), 3))
    assert together[9] == alone[9]
    assert together == backwards


def test_shards_and_one_pass_give_the_same_label_set(planted: Planted, planted_evidence: Path, tmp_path: Path) -> None:
    """What a user takes away is byte-identical apart from times, whether one, two or four processes gathered."""

    def exported(evidence: Path, name: str) -> list[str]:
        folder, store = EvidenceFolder(evidence), open_store(str(tmp_path / f"{name}.db"))
        label_set = store.label_set_for(folder.manifest, "evidence", RECIPE)
        asyncio.run(label_missing(folder, range(N_FEATURES), RECIPE, None, store, label_set))
        export_label_set(store, label_set.id, "jsonl", tmp_path / f"{name}.jsonl")
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        return [re.sub('"created_at": ?"[^"]*"', "", line) for line in lines]

    reference = exported(planted_evidence, "one")
    assert len(reference) == N_FEATURES
    for n in (2, 4):
        for i in range(n, 0, -1):
            gather(planted, tmp_path / f"of-{n}", shard=(i, n))
        assert exported(merge_shards(tmp_path / f"of-{n}"), f"of-{n}") == reference


def test_a_failed_simulation_is_never_zeros() -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Simulation(None, None)  # type: ignore[arg-type]


def test_a_recipe_that_cannot_work_is_refused() -> None:
    from labeler.errors import InputError

    with pytest.raises(InputError, match="simulator 'lookup' reads the table"):
        Recipe.from_names("openai:some-model", "lookup")
    with pytest.raises(InputError, match="explainer 'gpt' is not known"):
        Recipe.from_names("gpt")
    assert Recipe.from_names("lookup").hash == Recipe().hash
    assert Recipe(contexts=ContextsConfig(held_out_top=5)).hash != Recipe().hash


def test_a_null_of_many_tables_predicts_as_each_table_does(folder: EvidenceFolder) -> None:
    evidence = read_evidence(folder, 2, RECIPE)
    q, seven = (1 + CHARACTERS.index(c) for c in "Q7")
    tables = [table_of({"a": 1.5, "Q": 2.0}), TokenTable(), TokenTable({q: 1.0}, {(seven, q): 9.0, (q, seven): 4.0})]
    expected = [[p for c in evidence.held_out for p in t.predict(c.token_ids)] for t in tables]
    assert predict_all(tables, evidence.held_out).tolist() == expected
    assert TokenTable({q: 1.0}, {(seven, q): 9.0}).predict((q, seven, q)) == (1.0, 0.0, 9.0)


def test_a_label_carries_words_and_a_table() -> None:
    label = Label("the token `Q`", "lookup", table_of({"Q": 5.0}))
    assert label.table is not None
    assert label.table.predict((1, 1 + CHARACTERS.index("Q"))) == (0.0, 5.0)
