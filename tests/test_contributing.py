"""Each recipe of CONTRIBUTING.md, followed: a scorer, an explainer and an SAE format defined in the test."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from labeler import recipe as recipes
from labeler.errors import InputError
from labeler.evidence.store import EvidenceFolder
from labeler.explain import methods
from labeler.llm.prompt import Message, Prompt
from labeler.pipeline import label_feature
from labeler.recipe import ExplainerConfig, Recipe, ScorerConfig
from labeler.records import Score
from labeler.sae import load_sae
from labeler.sae.formats import FORMATS
from labeler.sae.sae import SAE, Selection
from labeler.score import score_label
from labeler.steps.null import NullLabels
from labeler.steps.read import read_evidence
from labeler.store.base.rows import row_of

ROOT = Path(__file__).parents[1]


class Silent:
    """An LLM that no one asks."""


def test_a_scorer(planted_evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def score_by_length(label, contexts, config, llm, lookups, measure):
        return (Score("length", float(len(label.text)), n=len(contexts)),)

    monkeypatch.setitem(recipes.SCORERS, "length", "length-1")
    monkeypatch.setitem(score_label._TESTS, "length", score_by_length)
    folder = EvidenceFolder(planted_evidence)
    recipe = Recipe(scorers=(ScorerConfig("length", "nobody"),))
    evidence = read_evidence(folder, 0, recipe)
    null = NullLabels(folder, recipe).for_feature(0)
    result = asyncio.run(label_feature(evidence, recipe, Silent(), null))
    score = result.score("length")
    assert score is not None
    assert score.value == len(result.label.text)
    # tests/test_added_scorer.py follows it into exports, REST and pages.
    assert row_of(1, result)["scores"][-1] == {
        "name": "length",
        "value": score.value,
        "n": score.n,
        "n_failed": 0,
        "null_n": 0,
    }


def test_an_explainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.EXPLAINERS, "haiku", "haiku-1")
    monkeypatch.setitem(
        methods.METHODS, "haiku", lambda material, config: Prompt("m", (Message("user", "Write."),), 50)
    )
    config = ExplainerConfig("openai", "m", "haiku-1")
    assert methods.explanation_prompt(None, config).messages[0].content == "Write."  # type: ignore[arg-type]


def test_an_sae_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yours = ModuleType("yours")
    yours.NAME = "yours"
    yours.recognizes = lambda weights: weights.has("up", "down")

    def read(weights) -> SAE:
        up, down = weights.take("up"), weights.take("down")
        return SAE(
            up,
            torch.zeros(len(up)),
            down,
            torch.zeros(down.shape[1]),
            Selection("relu"),
            "relu",
            weights.finish("yours"),
            hookpoint="model.layers.3:output",
        )

    yours.read = read
    monkeypatch.setattr("labeler.sae.load.FORMATS", (yours, *FORMATS))
    save_file({"up": torch.eye(4), "down": torch.eye(4)}, tmp_path / "weights.safetensors")
    sae = load_sae(str(tmp_path))
    assert sae.hookpoint == "model.layers.3:output"
    torch.testing.assert_close(sae.encode(torch.eye(4)), torch.eye(4))


def test_what_it_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name in ("score/detection.py", "explain/methods.py", "sae/formats/__init__.py", "schema.py"):
        assert (ROOT / "labeler" / name).exists()
    for name in ("SCORERS", "EXPLAINERS", "METHODS", "FORMATS", "_TESTS", "SCORES"):
        assert f"`{name}`" in text


def test_a_scorer_that_was_named_and_not_added_is_no_silence(
    planted_evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.SCORERS, "length", "length-1")
    folder = EvidenceFolder(planted_evidence)
    recipe = Recipe(scorers=(ScorerConfig("length", "nobody"),))
    with pytest.raises(InputError, match="'length' has no function in _TESTS"):
        asyncio.run(label_feature(read_evidence(folder, 0, recipe), recipe, Silent(), ()))
