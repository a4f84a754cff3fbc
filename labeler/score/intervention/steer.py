"""Intervene: let the subject write with a feature turned up until its next token changes by a set amount.

From the last token of the prompt on, a multiple of the feature's decoder direction is added to the hidden state that
the SAE reconstructs. Features differ in how much of their direction it takes to matter, so the multiple is searched for
until the mean of KL(clean || steered) over prompts, at the token after the prompt, has the stated value (Paulo et al.
2024, 3.3.5, compare interventions at equal divergence too). Texts are sampled with the same random numbers for all
features and for none: where the intervention changes no probability, the text is the clean one, token for token.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labeler.errors import InputError
from labeler.evidence.choose import null_features
from labeler.evidence.steered import SteerConfig, SteeredFolder, SteeredTexts
from labeler.evidence.store import EvidenceFolder
from labeler.evidence.target import Target, bos_token
from labeler.recipe import ContextsConfig, GatherConfig
from labeler.records import Source, Split
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject

_FIRST_SHARE = 0.05  # of the hidden state's norm: the first strength tried
# To a hundred times that norm. What changes the output no sooner does so by rounding all else away.
_DOUBLINGS, _BISECTIONS = 11, 40


@dataclass(frozen=True)
class Steering:
    """A subject, the place where it is changed, and the prompts it writes after: [n_prompts, length] of one length."""

    subject: Subject
    place: Hookpoint
    prompt_ids: Tensor
    config: SteerConfig


def steer_features(
    subject: Subject,
    target: Target,
    folder: EvidenceFolder,
    features: Sequence[int],
    config: SteerConfig,
    on_feature: Callable[[int, int], None] = lambda done, total: None,
) -> SteeredFolder:
    """Keep what the subject writes with each of `features` turned up, and the controls; finished features are kept.

    Raises InputError where the decoder's place in the subject is unknown, and MismatchError for a folder that was begun
    differently.
    """
    steering = prepare(subject, target, folder, config)
    controls = null_features(folder, ContextsConfig(), config.n_controls, config.seed)
    if not controls:
        raise InputError(f"evidence {folder.folder}: no feature fires often enough to compare others with")
    out = SteeredFolder(folder.folder)
    out.begin(config, {"evidence": folder.hash, "place": str(steering.place), "controls": controls})
    out.repair()
    prompts = [_spelled(folder, row) for row in _prompts(folder, config).tolist()]
    out.write_clean(prompts, _texts(subject, write(steering, None)))
    known = set(out.features)
    todo = [f for f in dict.fromkeys([*controls, *features]) if f not in known]
    directions = target.sae.decoder_directions()
    for done, feature in enumerate(todo, start=1):
        out.append(steer(steering, feature, directions[folder.check(feature)]))
        on_feature(done, len(todo))
    return out


def prepare(subject: Subject, target: Target, folder: EvidenceFolder, config: SteerConfig) -> Steering:
    place = target.aim
    if target.sae.n_places > 1:
        raise InputError(
            f"a feature of this SAE writes to {target.sae.n_places} places, and features are steered at one place only"
        )
    if place is None:
        raise InputError("this transcoder's file does not say where it writes in the subject, so it cannot be steered")
    gathered = GatherConfig.from_dict(folder.manifest["config"])
    ids = torch.from_numpy(_prompts(folder, config))
    if (bos := bos_token(subject, target.sae, gathered)) is not None:
        ids = torch.cat([torch.full((len(ids), 1), bos), ids], dim=1)
    longest = subject.max_positions
    if longest is not None and ids.shape[1] + config.new_tokens > longest:
        raise InputError(
            f"prompts and texts of {ids.shape[1] + config.new_tokens} tokens are longer than the "
            f"{longest} positions of {subject.id}: choose fewer"
        )
    return Steering(subject, place, ids.to(subject.device), config)


def _prompts(folder: EvidenceFolder, config: SteerConfig) -> np.ndarray:
    """Return [n_prompts, prompt_tokens] beginnings of RANDOM windows of HELD_OUT documents, the same for all features."""
    windows = folder.windows(0, Source.RANDOM, Split.HELD_OUT)
    length = min(config.prompt_tokens, folder.window_tokens)
    long_enough = np.flatnonzero(windows.length >= length)
    if len(long_enough) < config.n_prompts:
        raise InputError(
            f"evidence {folder.folder} holds {len(long_enough)} RANDOM held-out windows of {length} tokens, and "
            f"{config.n_prompts} prompts are wanted: gather more text, or ask for fewer prompts"
        )
    chosen = np.random.default_rng(config.seed).choice(long_enough, config.n_prompts, replace=False)
    return windows.token_ids[np.sort(chosen), :length]


def _spelled(folder: EvidenceFolder, ids: Sequence[int]) -> str:
    return "".join(folder.vocabulary.text(i) for i in ids)


def _texts(subject: Subject, ids: Tensor) -> list[str]:
    return [str(text) for text in subject.tokenizer.batch_decode(ids.cpu(), skip_special_tokens=True)]


def steer(steering: Steering, feature_index: int, direction: Tensor) -> SteeredTexts:
    """Return the texts of one feature at the strength that gives the divergence, or the reason why no strength does."""
    if not bool(direction.norm() > 0):
        return SteeredTexts(feature_index, None, reason="the feature's decoder direction is zero")
    strength, kl = find_strength(steering, direction)
    goal = steering.config.target_kl
    if abs(kl - goal) > steering.config.kl_tolerance * goal:
        reason = f"no strength changes the next token by {goal:g} nats: the nearest gives {kl:.3g}"
        return SteeredTexts(feature_index, None, reason=reason)
    ids = write(steering, strength * direction)
    return SteeredTexts(feature_index, tuple(_texts(steering.subject, ids)), strength, kl)


def find_strength(steering: Steering, direction: Tensor) -> tuple[float, float]:
    """Return (multiple of `direction`, divergence it gives): doubled until it is enough, then bisected."""
    clean = _next_token(steering, None)[0]
    hidden = steering.subject.hidden(steering.prompt_ids, [steering.place])[steering.place]
    goal, tolerance = steering.config.target_kl, steering.config.kl_tolerance

    def divergence(strength: float) -> float:
        return _divergence(clean, _next_token(steering, strength * direction)[0])

    low, high = 0.0, float(_FIRST_SHARE * hidden[:, -1].float().norm(dim=-1).mean() / direction.norm())
    kl = divergence(high)
    for _ in range(_DOUBLINGS):
        if not kl < goal:
            break
        low, high = high, 2.0 * high
        kl = divergence(high)
    if kl < goal or not math.isfinite(kl):
        return high, kl
    best = (high, kl)
    for _ in range(_BISECTIONS):
        if abs(best[1] - goal) <= tolerance * goal / 2.0:
            break
        middle = (low + high) / 2.0
        kl = divergence(middle)
        low, high = (middle, high) if kl < goal else (low, middle)
        best = min(best, (middle, kl), key=lambda found: abs(found[1] - goal))
    return best


def _divergence(clean: Tensor, steered: Tensor) -> float:
    """Return the mean over prompts of KL(clean || steered), nats, from log-probabilities [n_prompts, vocabulary]."""
    return float((clean.exp() * (clean - steered)).sum(dim=-1).mean())


def write(steering: Steering, addition: Tensor | None) -> Tensor:
    """Sample token ids [n_prompts, new_tokens] after each prompt, at temperature 1, with `addition` [d] in the hidden
    state.
    """
    generator = torch.Generator().manual_seed(steering.config.seed)
    logprobs, cache = _next_token(steering, addition)
    written = []
    for step in range(steering.config.new_tokens):
        # The Gumbel trick: with the same noise, two distributions that are alike choose the same token.
        noise = torch.rand(logprobs.shape, generator=generator).clamp_min(1e-20)
        chosen = (logprobs.cpu() - (-noise.log()).clamp_min(1e-20).log()).argmax(dim=-1).to(logprobs.device)
        written.append(chosen)
        if step + 1 < steering.config.new_tokens:
            logprobs, cache = _next_token(steering, addition, chosen[:, None], cache)
    return torch.stack(written, dim=1)


def _next_token(
    steering: Steering, addition: Tensor | None, ids: Tensor | None = None, cache: Any = None
) -> tuple[Tensor, Any]:
    """Return (log-probabilities of the next token [n_prompts, vocabulary], cache), after the prompts or further `ids`."""
    model = steering.subject.model
    with torch.no_grad(), _adding(model, steering.place, addition):
        given = steering.prompt_ids if ids is None else ids
        name = _cache_name(model.forward)
        out = model(input_ids=given, use_cache=True, **{name: cache})
    return out.logits[:, -1].float().log_softmax(dim=-1), out[name]


def _cache_name(forward: Callable[..., Any]) -> str:
    """Return the name under which a model takes its cache and gives it back: `cache` from transformers 5.24 on."""
    taken = inspect.signature(forward).parameters
    return next((name for name in ("cache", "past_key_values", "cache_params") if name in taken), "past_key_values")


@contextmanager
def _adding(model: Any, place: Hookpoint, addition: Tensor | None) -> Iterator[None]:
    """Add to the hidden state at the last position of every forward pass within the block; no hook outlives it."""
    if addition is None:
        yield
        return
    module = model.get_submodule(place.path)

    def changed(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[:, -1] += addition.to(hidden.device, hidden.dtype)
        return hidden

    def on_output(_module: Any, _args: Any, output: Any) -> Any:
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    def on_input(_module: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (changed(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed(kwargs["hidden_states"])}

    handle = (
        module.register_forward_pre_hook(on_input, with_kwargs=True)
        if place.reads == "input"
        else module.register_forward_hook(on_output)
    )
    try:
        yield
    finally:
        handle.remove()
