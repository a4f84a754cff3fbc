"""Let a model choose, by the label, which of two texts is the steered one; other labels are the null.

Each trial shows one prompt, what the subject wrote by itself, and two texts A and B. One has the feature turned up, the
other a random other feature turned up to the same divergence, in an order by hash. So a label gains nothing by fitting
whatever is odd in steered text, and knowing nothing gives one half. The same request holds labels of other features,
which are its null. A hash decides the label's place among them.

    intervention   balanced accuracy: the mean of the shares of trials judged rightly where A is right and where B is

This is a causal claim about the feature, at this strength, on these prompts. Turning it up makes the subject write more
of what the label says than turning up another feature does. Paulo et al. 2024 (3.3.5) score the same by how much less a
scorer is surprised by the label. That needs log-probabilities of a prompt, which few endpoints give.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labeler.errors import ConfigurationError, LLMError, UnreadableReply
from labeler.evidence.steered import draw
from labeler.llm import LLM
from labeler.llm.asking import ask
from labeler.llm.prompt import Message, Prompt
from labeler.recipe import Recipe, ScorerConfig
from labeler.records import Label, Score, Steered, Trial
from labeler.score.agreement import Resampled
from labeler.score.classification import balanced_accuracy
from labeler.score.interval import score_interval
from labeler.score.null import MIN_NULL, null_z_and_p
from labeler.score.score_label import needed
from labeler.score.simulate_prompts import without_duplicates

NAME = "intervention"
_FEWEST = 2  # trials where A is right, and where B is

INSTRUCTION = """\
A language model continued some prompts. Each trial shows a prompt, then CLEAN, what the model wrote by itself, then A and B, \
what it wrote while one thing or another inside it was turned up. Below the trials are descriptions. A description claims to \
say what was turned up in one of the two texts of every trial: which text, A or B, has more of it than CLEAN? Judge each \
description by itself and each trial by itself, and choose the likelier text where neither is clear.

Reply with one JSON object and nothing else: for each description, the numbers of the trials in which it fits A better; the \
others count as B. Name every description, with [] where B always fits better. The form, for two descriptions: \
{"1":[2,3],"2":[]}
"""

_SCHEMA = {
    "type": "object",
    "additionalProperties": {"type": "array", "items": {"type": "integer", "minimum": 1}},
}

Answers = tuple[bool, ...]  # for each trial: true if the reply says that the description fits A


async def score_interventions(
    label: Label, steered: Steered | None, others: Sequence[Label], recipe: Recipe, llm: LLM | None
) -> tuple[Score, ...]:
    """Return the score that the recipe asks for, if it asks for one. Raises InputError where there is no LLM."""
    config = next((c for c in recipe.scorers if c.kind == NAME), None)
    if config is None or steered is None:
        return ()
    score = await score_by_intervention(
        label, steered, others, config, needed(llm), confidence=recipe.confidence, seed=recipe.seed
    )
    return (score,)


async def score_by_intervention(
    label: Label,
    steered: Steered,
    others: Sequence[Label],
    config: ScorerConfig,
    llm: LLM,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Score:
    """Score `label` against `others`, labels of other features; one request and one repair.

    A feature that was not steered, or a reply that is unusable, gives a score without
    value and with the reason. Raises only ConfigurationError.
    """
    trials = [t for t in steered.trials if t.steered != t.control]
    truth = [steered_is_first(steered.feature_index, trial) for trial in trials]
    if reason := steered.reason or _why_too_few(truth):
        return Score(NAME, None, reason=reason, n=len(trials))
    texts, place = shown_among([o.text for o in others], label.text, steered.feature_index)
    prompt = judge_prompt(trials, truth, texts, config)
    try:
        answers = await ask(llm, prompt, lambda reply: parse_answers(reply, len(texts), len(trials)))
    except ConfigurationError:
        raise
    except LLMError as error:
        return Score(NAME, None, reason=f"{error.kind}: {error}", n_failed=len(trials))
    null = [answers[i] for i in range(len(texts)) if i != place]
    return accuracy_score(truth, answers[place], null, confidence=confidence, seed=seed)


def _why_too_few(truth: Sequence[bool]) -> str | None:
    if min(sum(truth), len(truth) - sum(truth)) >= _FEWEST:
        return None
    return f"turning the feature up gave another text than turning another one up after only {len(truth)} prompts"


def accuracy_score(
    truth: Sequence[bool], answers: Answers, null: Sequence[Answers], *, confidence: float, seed: int
) -> Score:
    """Return balanced accuracy over trials, with an interval over prompts and the scores of other features' labels."""
    first, said = np.array(truth, dtype=bool), np.array(answers, dtype=bool)
    against = null_z_and_p(balanced_accuracy(first, said), [balanced_accuracy(first, other) for other in null])
    interval = score_interval(
        _resampled(first, first == said), len(first), confidence=confidence, seed=seed, bounds=(0.0, 1.0)
    )
    low, high = interval or (None, None)
    score = Score(NAME, balanced_accuracy(first, said), low=low, high=high, n=len(first))
    return replace(score, null_z=against.z, null_p=against.p, null_n=against.n, null_mean=against.mean)


def _resampled(first: np.ndarray, right: np.ndarray) -> Resampled:
    def replicates(drawn: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            where_first = drawn @ (first & right) / (drawn @ first)
            where_second = drawn @ (~first & right) / (drawn @ ~first)
        return np.asarray((where_first + where_second) / 2.0)

    return replicates


def steered_is_first(feature_index: int, trial: Trial) -> bool:
    """Return True if the steered text is A, by a hash of the feature and the prompt."""
    return draw(f"order:{feature_index}:{trial.prompt}", 2) == 0


def shown_among(others: Sequence[str], label: str, feature_index: int) -> tuple[list[str], int]:
    """Return `label` and 20 others in the order shown, and its place; equal texts are shown once."""
    distinct = list(dict.fromkeys(other for other in others if other != label))
    texts = sorted(
        [*distinct[:MIN_NULL], label], key=lambda text: hashlib.sha256(f"{feature_index}:{text}".encode()).digest()
    )
    return texts, texts.index(label)


def judge_prompt(trials: Sequence[Trial], truth: Sequence[bool], labels: Sequence[str], config: ScorerConfig) -> Prompt:
    """Write one request: the fixed part, the trials, the descriptions."""
    shown = "\n\n".join(_shown(i, trial, first) for i, (trial, first) in enumerate(zip(trials, truth, strict=True), 1))
    described = "\n".join(f"{i}. {text}" for i, text in enumerate(labels, start=1))
    message = Message("user", f"{INSTRUCTION}\n{shown}\n\nDescriptions\n{described}")
    # A list of numbers for each description: some 3 tokens per number.
    room = max(config.max_tokens, 3 * len(labels) * (len(trials) + 4))
    return Prompt(config.model, (message,), room, config.temperature, _SCHEMA, purpose="intervention")


def _shown(number: int, trial: Trial, steered_first: bool) -> str:
    a, b = (trial.steered, trial.control) if steered_first else (trial.control, trial.steered)
    lines = {"PROMPT": trial.prompt, "CLEAN": trial.clean, "A": a, "B": b}
    # As JSON strings: a line break in a text must not look like one of ours.
    return f"Trial {number}\n" + "\n".join(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in lines.items())


def parse_answers(text: str, n_labels: int, n_trials: int) -> list[Answers]:
    """Read for each label if it fits A in each trial. Raises UnreadableReply unless the form is kept to the letter."""
    expected = (
        f'one JSON object with exactly the names "1" to "{n_labels}", each a list of trial numbers from 1 to {n_trials}'
    )
    body = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        reply = json.loads(body, object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):
        raise UnreadableReply(expected, text) from None
    if not isinstance(reply, dict) or set(reply) != {str(i) for i in range(1, n_labels + 1)}:
        raise UnreadableReply(expected, text)
    return [_answers(reply[str(i)], n_trials, expected, text) for i in range(1, n_labels + 1)]


def _answers(numbers: object, n_trials: int, expected: str, text: str) -> Answers:
    if not isinstance(numbers, list) or len(set(map(str, numbers))) != len(numbers):
        raise UnreadableReply(expected, text)
    if not all(type(n) is int and 1 <= n <= n_trials for n in numbers):
        raise UnreadableReply(expected, text)
    return tuple(i in numbers for i in range(1, n_trials + 1))
