"""How a label comes about, on planted features: an LLM whose labels have known worth, and decisions that report nothing."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labeler.errors import BudgetError, LLMError, RefusedError
from labeler.evidence.choose import part_of
from labeler.evidence.store import EvidenceFolder
from labeler.llm import Prompt, Reply
from labeler.pipeline import label_feature
from labeler.recipe import (
    EXPLAINERS,
    PART_SHARES,
    ContextsConfig,
    ExplainerConfig,
    Recipe,
    SimulatorConfig,
    TriageConfig,
)
from labeler.records import FeatureEvidence, Label, LabeledFeature, State, TokenTable, Usage
from labeler.steps.null import NullLabels
from labeler.steps.read import read_evidence
from labeler.views import explained
from tests.planted import CHARACTERS
from tests.stub_server import letter_llm

COST = Usage(1, 100, 10, 0.5)
RIGHT, BROAD, WRONG, EMPTY = "`Q` 10", "`Q` 10, `7` 10, `a` 10", "`7` 10", "no token at all"


class WorldLLM:
    """Explains with the labels that a test gives it, in the order of the draws, and simulates as they say."""

    def __init__(self, labels: Sequence[str | LLMError], revision: str | LLMError = EMPTY) -> None:
        self.labels, self.revision = labels, revision
        self.prompts: list[Prompt] = []

    async def complete(self, prompt: Prompt) -> Reply:
        self.prompts.append(prompt)
        text = self._answer(prompt)
        if isinstance(text, LLMError):
            raise text
        return Reply(text, "stop", COST, prompt.model)

    def _answer(self, prompt: Prompt) -> str | LLMError:
        if prompt.purpose == "simulate":
            return letter_llm(prompt.messages[-1].content)
        label = self.revision if prompt.purpose == "revise" else self.labels[(prompt.attempt - 1) // 2]
        return label if isinstance(label, LLMError) else f"LABEL: {label}"

    def asked(self, purpose: str) -> int:
        return sum(p.purpose == purpose for p in self.prompts)


def recipe(triage: TriageConfig | None = None, seed: int = 0, **explainer: object) -> Recipe:
    asks = ExplainerConfig("openai", "m", EXPLAINERS["max-activation"], **explainer)  # type: ignore[arg-type]
    return Recipe(asks, SimulatorConfig.of("m"), triage=triage, n_null=20, seed=seed)


@pytest.fixture(scope="module")
def folder(planted_evidence: Path) -> EvidenceFolder:
    return EvidenceFolder(planted_evidence)


def labelled(folder: EvidenceFolder, recipe: Recipe, llm: WorldLLM, feature: int = 0) -> LabeledFeature:
    evidence = read_evidence(folder, feature, recipe)
    return asyncio.run(label_feature(evidence, recipe, llm, []))  # type: ignore[arg-type]


def score_of(result: LabeledFeature) -> float:
    score = result.score("simulation")
    assert score is not None
    assert score.value is not None
    return score.value


def test_the_best_of_k_is_kept_wherever_it_stands(folder: EvidenceFolder) -> None:
    for labels in ([RIGHT, BROAD, WRONG], [WRONG, BROAD, RIGHT], [EMPTY, RIGHT, WRONG]):
        result = labelled(folder, recipe(best_of=3), WorldLLM(labels))
        assert result.label == Label(RIGHT, "openai:m")
        assert score_of(result) > 0.95
        assert result.origin is not None
        assert result.origin.why.startswith("the best of 3 labels on ")
        assert [(c.text, c.kept) for c in result.origin.candidates] == [(text, text == RIGHT) for text in labels]


def test_a_label_without_a_score_never_wins(folder: EvidenceFolder) -> None:
    """A label that predicts silence has no score; one that is wrong has a bad one, and is still better than none."""
    result = labelled(folder, recipe(best_of=2), WorldLLM([EMPTY, WRONG]))
    assert result.label == Label(WRONG, "openai:m")
    assert result.origin is not None
    silent, wrong = result.origin.candidates
    assert (silent.score, silent.reason) == (None, "the simulation is constant")
    assert wrong.score is not None
    assert wrong.score < 0.1


def test_where_no_label_has_a_score_the_first_is_kept_and_that_is_said(folder: EvidenceFolder) -> None:
    result = labelled(folder, recipe(best_of=2), WorldLLM([EMPTY, "silence"]))
    assert result.label == Label(EMPTY, "openai:m")
    assert result.origin is not None
    assert result.origin.why.startswith("the first of 2 labels: none has a score")


def test_equal_labels_are_tried_once_and_failed_explanations_cost(folder: EvidenceFolder) -> None:
    llm = WorldLLM([RIGHT, RefusedError("no", usage=COST), RIGHT])
    result = labelled(folder, recipe(best_of=3), llm)
    assert result.label == Label(RIGHT, "openai:m")
    assert result.origin is not None
    assert result.origin.why == "the only label that 3 explanations gave"
    assert result.usage.requests == llm.asked("explain") + llm.asked("simulate") == 3 + 3


def test_when_all_explanations_fail_the_feature_fails_with_the_cost_of_all(folder: EvidenceFolder) -> None:
    result = labelled(folder, recipe(best_of=3), WorldLLM([RefusedError("no", usage=COST)] * 3))
    assert result.state is State.FAILED
    assert result.usage.requests == 3


def test_what_ends_a_run_ends_it(folder: EvidenceFolder) -> None:
    with pytest.raises(BudgetError):
        labelled(folder, recipe(best_of=2), WorldLLM([RIGHT, BudgetError("spent")]))


def test_each_draw_sees_other_contexts(folder: EvidenceFolder) -> None:
    llm = WorldLLM([RIGHT, BROAD, WRONG])
    labelled(folder, recipe(best_of=3), llm)
    shown = {p.messages[0].content for p in llm.prompts if p.purpose == "explain"}
    assert len(shown) == 3


class TossingLLM(WorldLLM):
    """Its labels are worth the same: each request is simulated by the right label or by a wrong one, as a coin falls."""

    def _answer(self, prompt: Prompt) -> str | LLMError:
        if prompt.purpose != "simulate":
            return super()._answer(prompt)
        shown, sign, label = prompt.messages[-1].content.rpartition("\nThe feature detects: ")
        heads = hashlib.sha256((shown + label).encode()).digest()[0] % 2
        return letter_llm(f"{shown}{sign}{(RIGHT if heads else WRONG)}")


def test_the_choice_is_biased_and_the_report_is_not(folder: EvidenceFolder) -> None:
    """Scores that chose a label look better than it is, by as much as luck allows; those that report it do not."""
    chosen, reported = [], []
    for seed in range(24):
        result = labelled(folder, recipe(best_of=4, seed=seed), TossingLLM([f"{seed}-{i}" for i in range(4)]))
        assert result.origin is not None
        chosen += [c.score for c in result.origin.candidates if c.kept]
        reported.append(score_of(result))
    expected = 0.5  # of a fair coin between a score of 1 and one of about 0
    error = np.std(reported) / np.sqrt(len(reported))
    assert np.mean(chosen) > 0.85
    assert abs(np.mean(reported) - expected) < 3 * error + 0.05
    assert error < 0.1


REVISES = recipe(revise=True)


def test_a_revision_that_scores_better_is_kept(folder: EvidenceFolder) -> None:
    llm = WorldLLM([BROAD], RIGHT)
    result = labelled(folder, REVISES, llm)
    assert result.label == Label(RIGHT, "openai:m")
    assert score_of(result) > 0.95
    assert result.origin is not None
    assert result.origin.revised
    assert [(c.text, c.decided, c.kept) for c in result.origin.candidates] == [
        (BROAD, "revision", False),
        (RIGHT, "revision", True),
    ]
    (revise,) = (p for p in llm.prompts if p.purpose == "revise")
    assert revise.messages[0].content.endswith(f"The description: {BROAD}")
    assert "<<7|0, 10>>" in revise.messages[0].content
    assert result.usage.requests == len(llm.prompts)


@pytest.mark.parametrize(
    ("revision", "why"),
    [
        (WRONG, "its revision scored no better"),
        (EMPTY, "its revision scored no better"),
        (BROAD, "it stayed as it is"),
        (RefusedError("no", usage=COST), r"the revision failed \(refused\)"),
    ],
)
def test_otherwise_the_label_stays(folder: EvidenceFolder, revision: str | LLMError, why: str) -> None:
    llm = WorldLLM([BROAD], revision)
    result = labelled(folder, REVISES, llm)
    assert result.label == Label(BROAD, "openai:m")
    assert result.origin is not None
    assert not result.origin.revised
    assert re.search(why, result.origin.why)
    assert result.usage.requests == len(llm.prompts)


def test_a_label_that_errs_nowhere_is_not_asked_to_change(folder: EvidenceFolder) -> None:
    llm = WorldLLM([RIGHT])
    result = labelled(folder, REVISES, llm)
    assert result.label == Label(RIGHT, "openai:m")
    assert llm.asked("revise") == 0
    assert result.origin is not None
    assert result.origin.why.endswith("no counter-examples were found")


FULL = recipe(TriageConfig(), best_of=3, revise=True)
PARTS = ("choose", "show", "compare")


def test_no_document_takes_two_parts(folder: EvidenceFolder) -> None:
    for feature in (0, 1, 2, 6, 9):
        evidence = read_evidence(folder, feature, FULL)
        documents = [{c.document for c in part} for part in parts_of(evidence)]
        assert all(documents[:4])
        for i, one in enumerate(documents):
            assert not any(one & other for other in documents[i + 1 :])


def parts_of(evidence: FeatureEvidence) -> list[Sequence]:
    return [evidence.held_out, evidence.choose, evidence.show, evidence.compare, [c for d in evidence.draws for c in d]]


def test_a_label_is_shown_with_what_its_own_explainer_saw(folder: EvidenceFolder) -> None:
    asks = recipe(best_of=3)
    evidence = read_evidence(folder, 0, asks)
    result = asyncio.run(label_feature(evidence, asks, WorldLLM([WRONG, WRONG, RIGHT]), ()))
    assert result.label is not None
    assert result.label.text == RIGHT
    assert result.origin is not None
    assert result.origin.draw == 2
    assert explained(folder, 0, asks, result.origin.draw) == evidence.draws[2] != evidence.draws[0]
    assert explained(folder, 0, replace(asks, version=2)) == (), "another version chose in another way"


def test_parts_take_their_share_of_the_documents_and_are_the_same_in_every_recipe(folder: EvidenceFolder) -> None:
    held_out = np.flatnonzero(np.asarray(folder.corpus.held_out))
    place = [folder.document_fraction(int(d), "part:0") for d in held_out]
    for d, at in zip(held_out, place, strict=True):
        expected = PARTS[int(at / 0.2)] if at < 0.6 else "report"
        assert part_of(folder, int(d), PARTS, 0) == expected
        assert part_of(folder, int(d), ("choose",), 0) == ("choose" if expected == "choose" else "report")
    assert sum(PART_SHARES.values()) == pytest.approx(0.6)
    many = [folder.document_fraction(d, f"salt-{i}") for d in range(20) for i in range(50)]
    assert np.histogram(many, 5, (0, 1))[0] == pytest.approx(200, abs=60)


def test_what_reports_without_parts_is_what_it_was(folder: EvidenceFolder) -> None:
    plain, asks = Recipe(), recipe()
    assert asks.contexts == plain.contexts
    assert read_evidence(folder, 0, asks) == read_evidence(folder, 0, plain)


def test_a_feature_needs_more_windows_where_documents_are_set_aside() -> None:
    assert Recipe().contexts.least_firing_windows == (10, 10)
    assert recipe(best_of=2).contexts.least_firing_windows == (10, 13)
    assert FULL.contexts.least_firing_windows == (10, 25)
    assert replace(FULL.contexts, min_firing_windows=(4, 0)).least_firing_windows == (4, 0)


CASCADE = recipe(TriageConfig(keep_lookup_from=0.9))


def test_triage_keeps_a_look_up_label_that_is_good_enough_and_asks_nobody(folder: EvidenceFolder) -> None:
    llm = WorldLLM([])
    evidence = read_evidence(folder, 0, CASCADE)
    result = asyncio.run(label_feature(evidence, CASCADE, llm, NullLabels(folder, CASCADE).for_feature(0)))  # type: ignore[arg-type]
    assert llm.prompts == []
    assert result.label == evidence.lookup
    assert result.origin is not None
    assert (result.origin.method, result.origin.asked_llm) == ("lookup", False)
    assert "the look-up label scores 1.00 on 10 contexts set aside; from 0.90 no LLM is asked" in result.origin.why
    score = result.score("simulation")
    assert score is not None
    assert score.value == pytest.approx(score.baseline_token_lookup)
    assert score.null_n >= 20


def test_triage_asks_an_llm_where_the_look_up_label_is_not_good_enough(folder: EvidenceFolder) -> None:
    evidence = read_evidence(folder, 0, CASCADE)
    poor = replace(evidence, lookup=Label("`7`", "lookup", TokenTable({1 + CHARACTERS.index("7"): 1.0})))
    result = asyncio.run(label_feature(poor, CASCADE, WorldLLM([RIGHT]), []))  # type: ignore[arg-type]
    assert result.label == Label(RIGHT, "openai:m")
    assert result.origin is not None
    assert result.origin.asked_llm
    (lookup,) = result.origin.candidates
    assert (lookup.text, lookup.decided, lookup.kept) == ("`7`", "triage", False)
    assert lookup.score is not None
    assert lookup.score < 0.9


def test_triage_leaves_dense_features_alone(folder: EvidenceFolder) -> None:
    dense = recipe(TriageConfig(keep_lookup_from=1.0, densest=0.001))
    llm = WorldLLM([])
    result = labelled(folder, dense, llm)
    assert llm.prompts == []
    assert result.origin is not None
    assert "of all tokens; above 0% no LLM is asked" in result.origin.why


def test_triage_is_decided_on_documents_that_do_not_report(folder: EvidenceFolder) -> None:
    evidence = read_evidence(folder, 0, CASCADE)
    assert evidence.choose
    assert not {c.document for c in evidence.choose} & {c.document for c in evidence.held_out}
    assert CASCADE.contexts == ContextsConfig(explain_hard=0, held_out_hard=0, aside=("choose",))
