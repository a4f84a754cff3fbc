"""Recipes and plans on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labeler.evidence.store import EvidenceFolder
from labeler.store import open_store
from labeler.views import feature_view
from tests.stub_server import StubServer


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")


def test_recipes_are_listed_and_printed(run) -> None:  # type: ignore[no-untyped-def]
    listed = run("recipes")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == [
        "best-of-5",
        "cascade",
        "contrastive",
        "lookup",
        "standard",
    ]
    assert "keep_lookup_from = 0.9" in run("recipes", "cascade").out
    assert "known are best-of-5" in run("recipes", "cascades").err


def test_a_plan_asks_nobody_and_makes_nothing(run, key: None, planted_evidence: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with StubServer() as server:
        words = ("label", planted_evidence, "--recipe", "standard", "--explainer", "openai:m", "--plan")
        done = run(*words, "--base-url", server.base_url, "--json")
        assert server.requests == []
    assert done.code == 0, done.err
    plan = json.loads(done.out)["plan"]
    assert (plan["n_features"], plan["n_silent"], plan["n_rare"], plan["n_asked"]) == (32, 1, 1, 30)
    assert plan["requests"] == sum(s["requests"] for s in plan["stages"]) > 100
    assert plan["cost_usd"] is None
    shown = run(*words)
    assert "unknown" in shown.out
    assert "an LLM is asked about 30" in shown.out
    assert not (tmp_path / "labeler.db").exists()


def test_triage_is_reported_and_kept_with_each_feature(run, key: None, planted_evidence: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipe = tmp_path / "mine.toml"
    recipe.write_text("model = 'm'\nn_null = 20\n[triage]\nkeep_lookup_from = 0.9\n")
    with StubServer() as server:
        words = ("label", planted_evidence, "--features", "0-9", "--recipe", recipe, "--base-url", server.base_url)
        planned = json.loads(run(*words, "--plan", "--json").out)["plan"]
        done = run(*words, "--json")
        assert planned["requests"] == len(server.requests)
    now = json.loads(done.out)["now"]
    assert done.code == 0, done.err
    assert now["kept_lookup"] == planned["n_kept_lookup"] >= 5
    view = feature_view(EvidenceFolder(planted_evidence), 0, open_store(str(tmp_path / "labeler.db")))
    assert view.result.origin is not None
    assert not view.result.origin.asked_llm
    assert [c.decided for c in view.result.origin.candidates] == ["triage"]
    assert "kept their look-up label by the recipe's triage" in run(*words, "--features", "10-12").out
    left = json.loads(run(*words, "--plan", "--json", "--features", "0-9").out)["plan"]
    assert (left["n_features"], left["requests"]) == (0, 0)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("[explainer]\nmethod = 'guess'", "explainer.method is 'guess': known are lookup, max-activation"),
        ("[explainer]\nmethod = 'contrastive'", "explainer names no model to ask: add --explainer openai:MODEL"),
        ("model = 'm'\n[simulator]\nsplit = 'explain'", "must not be what it was explained from"),
        ("[[scorers]]\nkind = 'x'\nmodel = 'm'", "scorer 'x' is not known"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_asked(  # type: ignore[no-untyped-def]
    run, key: None, planted_evidence: Path, tmp_path: Path, recipe: str, message: str
) -> None:
    (tmp_path / "bad.toml").write_text(recipe)
    with StubServer() as server:
        done = run("label", planted_evidence, "--recipe", tmp_path / "bad.toml", "--base-url", server.base_url)
        assert server.requests == []
    assert done.code == 2
    assert message in done.err
