"""A plan is what a run then really spends: both are asked, with a server that counts tokens as words."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from labeler.errors import InputError
from labeler.evidence.store import EvidenceFolder
from labeler.label_sets.plan import Plan, plan_labels
from labeler.llm.client import OpenAILLM
from labeler.llm.prices import Price, Prices
from labeler.llm.tokens import TokenCounter, estimate_tokens
from labeler.pipeline import label_features
from labeler.recipe import ContextsConfig, ExplainerConfig, Recipe, TriageConfig
from labeler.recipes import read_recipe
from labeler.records import LabeledFeature, State
from tests.stub_server import StubServer

WORDS = TokenCounter("words", lambda text: len(text.split()))
PRICES = Prices({"openai-m": Price(1.0, 10.0)})
FEATURES = range(12)  # of which 5 is silent and 4 is rare


@pytest.fixture(scope="module")
def folder(planted_evidence: Path) -> EvidenceFolder:
    return EvidenceFolder(planted_evidence)


def recipe(name: str, **contexts: int) -> Recipe:
    read = read_recipe(name, "openai:openai-m")
    return replace(read, n_null=20, contexts=replace(read.contexts, **contexts))


def plan(folder: EvidenceFolder, recipe: Recipe, features: Sequence[int] = FEATURES, sample: int = 99) -> Plan:
    return asyncio.run(plan_labels(folder, features, recipe, PRICES, counter=WORDS, sample=sample))


def run(folder: EvidenceFolder, recipe: Recipe) -> tuple[StubServer, list[LabeledFeature]]:
    async def label(server: StubServer) -> list[LabeledFeature]:
        async with OpenAILLM(server.base_url) as llm:
            return [r async for r in label_features(folder, FEATURES, recipe, llm)]

    with StubServer() as server:
        return server, asyncio.run(label(server))


def words(server: StubServer) -> int:
    return sum(len(m["content"].split()) for body in server.bodies for m in body["messages"])


@pytest.mark.parametrize("name", ["standard", "contrastive", "cascade"])
def test_the_plan_is_what_the_run_takes(folder: EvidenceFolder, name: str) -> None:
    planned = plan(folder, recipe(name))
    server, results = run(folder, recipe(name))
    assert (planned.n_silent, planned.n_rare) == (1, 1)
    assert planned.requests == len(server.requests)
    # The look-up label, which stands in for the one that does not exist yet, is some words longer or shorter.
    assert planned.tokens_in == pytest.approx(words(server), rel=0.02)
    kept = [r for r in results if r.origin is not None and not r.origin.asked_llm]
    assert planned.n_kept_lookup == len(kept)
    assert planned.n_asked == sum(r.state is State.LABELED for r in results) - len(kept)


def test_what_is_decided_underway_is_planned_at_its_dearest(folder: EvidenceFolder) -> None:
    planned = plan(folder, recipe("best-of-5"))
    server, _ = run(folder, recipe("best-of-5"))
    assert len(server.requests) <= planned.requests
    stages = Counter({(s.stage, s.purpose): s.requests for s in planned.stages})
    assert stages["explain", "explain"] == stages["choose", "simulate"] == 5 * planned.n_asked
    assert stages["revise", "revise"] == planned.n_asked
    spent = Counter("revise" if "Correct the description" in b["messages"][0]["content"] else "" for b in server.bodies)
    assert spent["revise"] <= stages["revise", "revise"]


def test_a_sample_stands_for_all(folder: EvidenceFolder) -> None:
    few, all_of_them = (
        plan(folder, recipe("standard"), range(32), sample=8),
        plan(folder, recipe("standard"), range(32)),
    )
    assert (few.n_sampled, all_of_them.n_sampled) == (8, 30)
    assert few.requests == pytest.approx(all_of_them.requests, rel=0.05)
    assert few.tokens_in == pytest.approx(all_of_them.tokens_in, rel=0.1)


def test_money_is_the_price_of_the_tokens_and_unknown_is_not_zero(folder: EvidenceFolder) -> None:
    planned = plan(folder, recipe("standard"))
    assert planned.cost_usd == pytest.approx(planned.tokens_in / 1e6 + planned.tokens_out / 1e5)
    unknown = asyncio.run(plan_labels(folder, FEATURES, recipe("standard"), Prices(), counter=WORDS))
    assert unknown.cost_usd is None
    assert {s.cost_usd for s in unknown.stages} == {None}


def test_a_recipe_without_an_llm_costs_nothing(folder: EvidenceFolder) -> None:
    planned = plan(folder, Recipe())
    assert (planned.requests, planned.cost_usd, planned.n_asked) == (0, 0, 0)


def test_nothing_left_to_label_is_planned_as_nothing(folder: EvidenceFolder) -> None:
    planned = plan(folder, recipe("standard"), [4, 5])
    assert (planned.n_silent, planned.n_rare, planned.requests, planned.cost_usd) == (1, 1, 0, 0)


def test_what_cannot_work_is_refused_before_a_plan(folder: EvidenceFolder) -> None:
    config = ExplainerConfig("openai", "m", "template-1", template="{{ nothing }} LABEL: ...")
    with pytest.raises(InputError, match="names 'nothing'"):
        plan(folder, replace(recipe("standard"), explainer=config))
    asks = replace(recipe("cascade"), triage=TriageConfig(), contexts=ContextsConfig())
    old = replace(asks, explainer=replace(asks.explainer, prompt_version="max-activation-0"))
    with pytest.raises(InputError, match="this version of labeler writes 'max-activation-2'"):
        plan(folder, old)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("def f(x):\n    return x + 1\n", 11),
        ("internationalization", 2),
        ("1234567", 3),
        ("<<self|10>>", 5),
        ("\n\n\n", 1),
    ],
)
def test_the_estimate_is_near_what_cl100k_counts(text: str, tokens: int) -> None:
    """`tokens` is cl100k's count."""
    assert abs(estimate_tokens(text) - tokens) <= 1
