"""Show a label's mistakes and ask for a second try. Pure; a changed word changes recipe.SCORING_VERSION."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeler.explain.material import lines, request
from labeler.llm.prompt import Prompt
from labeler.llm.spelling import LEGEND, alone, in_line
from labeler.quantise import calculate_max_activation, quantise
from labeler.recipe import ExplainerConfig
from labeler.records import Label, Simulation

_LEAST = 3.0  # of 10: a smaller error is no counter-example
_SHOWN = 5  # of each kind

INSTRUCTION = f"""\
A feature of a language model fires on some tokens of a text, with a strength from 0 to 10, and is silent (0) on most. \
Somebody read only a description of what one feature detects, and predicted its strength on every token of new \
contexts. Below are the contexts in which that went wrong. A token is written <<token|t, p>> where it fires, or was \
predicted to: t is its true strength, p the predicted one. {LEGEND}

Correct the description, so that the predictions become right: widen it where the feature fires unpredicted, narrow it \
where it was predicted and is silent, and keep what is right in it. If the contexts show nothing that a better \
description could say, repeat the description as it is.

Reply with one line of at most 200 characters, which does not start with "This feature":
LABEL: <what it detects>

"""


@dataclass(frozen=True)
class CounterExamples:
    """The simulations in which a label is most wrong, worst first; both kinds may hold one context."""

    missed: tuple[str, ...]  # fires where the label predicts silence
    invented: tuple[str, ...]  # is silent where the label predicts firing

    def __bool__(self) -> bool:
        return bool(self.missed or self.invented)


def counter_examples(simulations: Sequence[Simulation]) -> CounterExamples:
    """Return the worst of `simulations`, whose predictions are on 0..10; truth is scaled by its own maximum."""
    known = [(s, s.predicted) for s in simulations if s.predicted is not None]
    maximum = calculate_max_activation(s.context.activations for s, _ in known)
    truths = [quantise(s.context.activations, maximum) for s, _ in known]
    errors = [np.array(p) - t for (_, p), t in zip(known, truths, strict=True)]
    shown = [_line(s, t, p) for (s, p), t in zip(known, truths, strict=True)]
    return CounterExamples(
        _worst(shown, [float(-e.min()) for e in errors]),
        _worst(shown, [float(e.max()) for e in errors]),
    )


def _worst(shown: Sequence[str], errors: Sequence[float]) -> tuple[str, ...]:
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    return tuple(shown[i] for i in order if errors[i] >= _LEAST)[:_SHOWN]


def _line(simulation: Simulation, truth: np.ndarray, predicted: Sequence[float]) -> str:
    return "".join(
        f"<<{alone(token)}|{t}, {p:.0f}>>" if t >= 1 or round(p) >= 1 else in_line(token)
        for token, t, p in zip(simulation.context.tokens, truth.tolist(), predicted, strict=True)
    )


def revision_prompt(label: Label, examples: CounterExamples, config: ExplainerConfig) -> Prompt:
    """Write one request for a better label."""
    text = (
        f"{INSTRUCTION}It fires, and that was not predicted:\n{lines(examples.missed)}\n\n"
        f"It was predicted, and does not fire:\n{lines(examples.invented)}\n\nThe description: {label.text}"
    )
    return request(text, config, purpose="revise")
