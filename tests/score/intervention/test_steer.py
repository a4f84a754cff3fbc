from __future__ import annotations

import inspect
import json

import pytest
import torch
from transformers.utils import ModelOutput

from labeler.errors import InputError, MismatchError
from labeler.evidence.steered import SteerConfig, SteeredFolder
from labeler.score.intervention.steer import _cache_name, find_strength, prepare, steer, steer_features, write
from tests.planted import PLANTED
from tests.score.intervention.world import reading_input, token

CONFIG = SteerConfig(target_kl=0.5, n_prompts=8, prompt_tokens=16, new_tokens=12, n_controls=2)
Q = 0  # the feature of the letter Q


def _logprobs(steering, addition):
    """What the subject expects after the prompts, computed without our hook: the addition is made in the weights' place."""
    model, ids = steering.subject.model, steering.prompt_ids
    embedded = model.gpt_neox.embed_in(ids).detach().clone()
    embedded[:, -1] += addition
    with torch.no_grad():
        return model(inputs_embeds=embedded).logits[:, -1].log_softmax(dim=-1)


def test_the_strength_gives_the_stated_divergence(subject, target, folder):
    steering = prepare(subject, target, folder, CONFIG)
    direction = target.sae.decoder_directions()[Q]
    for goal in (0.1, 0.5, 3.0):
        wanted = SteerConfig(target_kl=goal, n_prompts=8, prompt_tokens=16)
        strength, kl = find_strength(prepare(subject, target, folder, wanted), direction)
        clean, steered = _logprobs(steering, 0.0 * direction), _logprobs(steering, strength * direction)
        measured = float((clean.exp() * (clean - steered)).sum(-1).mean())
        assert measured == pytest.approx(kl, rel=1e-3)
        assert measured == pytest.approx(goal, rel=0.02)


def test_turning_up_a_letter_makes_the_subject_write_it(subject, target, folder):
    steering = prepare(
        subject, target, folder, SteerConfig(target_kl=3.0, n_prompts=8, prompt_tokens=16, new_tokens=12)
    )
    found = steer(steering, Q, target.sae.decoder_directions()[Q])
    clean = write(steering, None)
    assert "".join(found.texts).count("Q") > 20 > 5 > int((clean == token("Q")).sum())
    other = steer(steering, 1, target.sae.decoder_directions()[1])
    assert "".join(other.texts).count("7") > 20 > 5 > "".join(other.texts).count("Q")


def test_no_addition_writes_the_clean_text_and_no_hook_outlives_the_writing(subject, target, folder):
    steering = prepare(subject, target, folder, CONFIG)
    direction = target.sae.decoder_directions()[Q]
    clean = write(steering, None)
    assert torch.equal(clean, write(steering, 0.0 * direction))
    assert not torch.equal(clean, write(steering, 20.0 * direction))
    assert torch.equal(clean, write(steering, None))


def test_the_cache_changes_nothing(subject, target, folder):
    """Token for token what the subject writes when it reads everything again at each step."""
    steering = prepare(subject, target, folder, CONFIG)
    generator = torch.Generator().manual_seed(CONFIG.seed)
    ids = steering.prompt_ids
    for _ in range(CONFIG.new_tokens):
        with torch.no_grad():
            logprobs = subject.model(ids).logits[:, -1].log_softmax(-1)
        noise = torch.rand(logprobs.shape, generator=generator).clamp_min(1e-20)
        ids = torch.cat([ids, (logprobs - (-noise.log()).log()).argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids[:, steering.prompt_ids.shape[1] :], write(steering, None))


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params"])
def test_the_cache_goes_by_the_name_that_the_model_has_for_it(subject, target, folder, monkeypatch, name):
    """Releases of transformers before 5.24 know no `cache`, and later ones warn of its older names."""
    expected = write(prepare(subject, target, folder, CONFIG), None)
    forward, seen = subject.model.forward, []

    def named(input_ids, use_cache, attention_mask=None, **caches):
        seen.append(caches[name] is not None)
        out = forward(input_ids=input_ids, use_cache=use_cache, **{_cache_name(forward): caches[name]})
        return ModelOutput({"logits": out["logits"], name: out[_cache_name(forward)]})

    kept = [p for p in inspect.signature(named).parameters.values() if p.name != "caches"]
    taken = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    named.__signature__ = inspect.Signature([*kept, taken])
    monkeypatch.setattr(subject.model, "forward", named)
    assert torch.equal(write(prepare(subject, target, folder, CONFIG), None), expected)
    assert seen[-2:] == [True, True]


def test_an_sae_that_reads_a_modules_input_is_steered_there(subject, target, folder):
    direction = target.sae.decoder_directions()[Q]
    by_output = find_strength(prepare(subject, target, folder, CONFIG), direction)
    assert find_strength(prepare(subject, reading_input(target), folder, CONFIG), direction) == pytest.approx(by_output)


def test_features_are_steered_once_and_a_killed_run_goes_on(subject, target, folder):
    out = steer_features(subject, target, folder, [Q, 1], CONFIG)
    assert set(out.features) == {Q, 1, *out.controls}
    lines = folder.folder / "steered" / "texts.jsonl"
    before = lines.read_bytes()
    lines.write_bytes(before[:-20])  # killed in the middle of the last line
    again = steer_features(subject, target, folder, [Q, 1], CONFIG)
    assert lines.read_bytes() == before
    assert again.read(Q) == out.read(Q)
    with pytest.raises(MismatchError, match="another target_kl"):
        steer_features(subject, target, folder, [Q], SteerConfig(target_kl=1.0))


def test_trials_compare_with_a_control_on_the_same_prompt(subject, target, folder):
    steer_features(subject, target, folder, [Q], CONFIG)
    opened = SteeredFolder(folder.folder)
    steered = opened.steered(Q)
    assert len(steered.trials) == 8
    controls = [opened.read(c).texts for c in opened.controls]
    clean = json.loads((folder.folder / "steered" / "clean.json").read_text())
    for i, trial in enumerate(steered.trials):
        assert (trial.prompt, trial.clean) == (clean["prompts"][i], clean["clean"][i])
        assert len(trial.prompt) == 16
        assert trial.control in [texts[i] for texts in controls]
    assert "labeler intervene" in opened.steered(5).reason


def test_a_direction_that_does_nothing_has_a_reason_and_no_texts(subject, target, folder):
    steering = prepare(subject, target, folder, CONFIG)
    direction = target.sae.decoder_directions()[Q]
    assert "zero" in steer(steering, Q, torch.zeros_like(direction)).reason
    # The subject's layer norm takes away what all dimensions share.
    flat = steer(steering, Q, torch.ones_like(direction))
    assert flat.texts is None
    assert "no strength" in flat.reason


def test_what_cannot_be_steered_is_refused_before_anything_is_written(subject, target, folder):
    with pytest.raises(InputError, match="longer than the 128 positions"):
        steer_features(subject, target, folder, [Q], SteerConfig(prompt_tokens=24, new_tokens=120))
    with pytest.raises(InputError, match="RANDOM held-out windows"):
        steer_features(subject, target, folder, [Q], SteerConfig(n_prompts=100_000))
    with pytest.raises(InputError, match="at least 4 prompts"):
        SteerConfig(n_prompts=1)
    assert not (folder.folder / "steered").exists()
    assert PLANTED[Q] == {"Q": 5.0}
