"""From the command to the score: a subject is steered on disk, and the pipeline asks a judge about what it wrote."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from labeler.evidence.gathered import open_gathered
from labeler.evidence.steered import SteerConfig, SteeredFolder
from labeler.llm.ledger import MemoryLedger
from labeler.llm.prompt import Prompt, Reply
from labeler.pipeline import label_features
from labeler.recipe import Recipe, ScorerConfig
from labeler.records import LabeledFeature, Usage
from labeler.replay import replay_requests
from labeler.score.intervention.steer import steer_features
from labeler.subject.hookpoints import Hookpoint

RECIPE = Recipe(scorers=(ScorerConfig("intervention", "judge"),))


class Reader:
    """Finds the first character that a look-up label names, and chooses the text that holds more of it."""

    async def complete(self, prompt: Prompt) -> Reply:
        text = prompt.messages[-1].content
        pairs = [(json.loads(a), json.loads(b)) for a, b in re.findall(r'^A: (".*")\nB: (".*")$', text, re.MULTILINE)]
        answers = {}
        for number, named in re.findall(r"^(\d+)\. [^`\n]*`(.)`.*$", text.partition("Descriptions\n")[2], re.MULTILINE):
            answers[number] = [i for i, (a, b) in enumerate(pairs, start=1) if a.count(named) > b.count(named)]
        return Reply(json.dumps(answers), "stop", Usage(1, 900, 90, 0.0), "judge")


def _labelled(folder, features) -> dict[int, LabeledFeature]:
    async def run() -> dict[int, LabeledFeature]:
        return {r.feature_index: r async for r in label_features(folder, features, RECIPE, Reader())}

    return asyncio.run(run())


def test_a_feature_that_makes_its_letter_gets_a_causal_score(subject, target, folder):
    steer_features(subject, target, folder, [0], SteerConfig(target_kl=2.0, n_prompts=12, prompt_tokens=16))
    by_feature = _labelled(folder, [0, 7])
    score = by_feature[0].score("intervention")
    assert by_feature[0].label.text.count("Q")
    assert score.value > 0.9
    assert score.null_p < 0.1
    assert score.null_n >= 20
    assert by_feature[0].usage.requests == 1
    # Feature 7 was not steered: a reason, and the other scores are there.
    assert "labeler intervene" in by_feature[7].score("intervention").reason
    assert by_feature[7].score("simulation").value > 0.9
    assert by_feature[7].usage.requests == 0


def test_the_request_is_made_once_more_as_it_was_sent(subject, target, folder):
    steer_features(subject, target, folder, [0], SteerConfig(target_kl=2.0, n_prompts=12, prompt_tokens=16))
    sent = []

    class Listener(Reader):
        async def complete(self, prompt: Prompt) -> Reply:
            sent.append(prompt)
            return await super().complete(prompt)

    async def run() -> list[LabeledFeature]:
        return [r async for r in label_features(folder, [0], RECIPE, Listener())]

    asyncio.run(run())
    assert "\n21. " in sent[0].messages[-1].content
    assert [asked.prompt for asked in replay_requests(folder, 0, RECIPE, MemoryLedger())] == sent


def test_without_the_scorer_nothing_is_read_or_asked(folder):
    async def run() -> list[LabeledFeature]:
        return [r async for r in label_features(folder, [0], Recipe(), None)]

    (result,) = asyncio.run(run())
    assert result.score("intervention") is None


def test_the_command_steers_goes_on_and_refuses_another_subject(run, folder, planted, tmp_path: Path):
    how = ("--prompts", 4, "--new-tokens", 4, "--kl", 0.01, "--device", "cpu", "--json")
    words = ("intervene", folder.folder, "--features", "0,7", *how)
    first = run(*words)
    assert first.code == 0, first.err
    told = json.loads(first.out)
    assert (told["features"], told["without_texts"]) == (2, [])
    lines = (folder.folder / "steered" / "texts.jsonl").read_bytes()
    assert {0, 7} <= set(SteeredFolder(folder.folder).features)
    assert run(*words).code == 0
    assert (folder.folder / "steered" / "texts.jsonl").read_bytes() == lines
    other = run(*words, "--kl", 1.0)
    assert other.code == 2
    assert "another target_kl" in other.err


def test_another_subject_or_sae_is_refused(run, folder, planted, tmp_path: Path):
    from tests.planted import plant

    elsewhere = plant(tmp_path / "other", n_documents=2, seed=1)
    config = json.loads((elsewhere.subject / "config.json").read_text())
    (elsewhere.subject / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    words = ("intervene", folder.folder, "--features", "0", "--device", "cpu")
    refused = run(*words, "--subject", elsewhere.subject)
    assert refused.code == 2
    assert "other weights now" in refused.err
    weights = elsewhere.sae / "sae_weights.safetensors"
    _change_last_byte(weights)
    refused = run(*words, "--sae", elsewhere.sae)
    assert refused.code == 2
    assert "other weights now" in refused.err


def test_what_was_read_at_a_blocks_input_is_steered_there(planted_evidence: Path):
    manifest = json.loads((planted_evidence / "manifest.json").read_text())
    _, target = open_gathered({**manifest, "hookpoint": "gpt_neox.layers.0", "reads": "input"}, device="cpu")
    assert target.aim == target.hookpoint == Hookpoint("gpt_neox.layers.0", "input")


def _change_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def test_an_intervention_needs_a_feature(run, folder):
    refused = run("intervene", folder.folder)
    assert refused.code == 2
    assert "--features" in refused.err


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
