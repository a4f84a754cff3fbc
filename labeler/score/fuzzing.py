"""Fuzzing (Paulo et al. 2024): a model that sees the label says where the marked tokens are the ones it means.

    name                  asked about                                                 measure
    fuzzing               all                                                         balanced accuracy, chance 0.5
    fuzzing_same          against firing contexts in which silent tokens are marked   balanced accuracy
    fuzzing_random, _hard against silent contexts                                     balanced accuracy
    fuzzing_auroc         all                                                         AUROC, by how sure the model was

By falling peak, every second firing context has its firing tokens marked; in the others as many silent tokens are
marked. A silent context has as many marks as tokens fire in a typical one, first on tokens that fire elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from statistics import median_low

from labeler.llm import LLM, Prompt
from labeler.llm.spelling import LEGEND, in_line
from labeler.quantise import calculate_max_activation, quantise
from labeler.recipe import ScorerConfig
from labeler.records import Context, Label, Score, Source
from labeler.score.items import Item, Measure, with_reason
from labeler.score.lookups import Lookups
from labeler.score.matching import ask_matches, match_prompt

INSTRUCTION = f"""\
A feature of a language model fires on some tokens of a text and is silent on the others. Below are contexts, one a \
line, each behind its number, with some tokens marked <<like this>>. {LEGEND} Last comes a description of what one \
feature detects. In which contexts are the marked tokens those on which it fires? In the others wrong ones are marked. \
It may be none of them.

Reply with the numbers of the contexts with the right marks in rising order, separated by commas and ended by 0, and \
nothing else. Two examples of the form:
12,15,31,0
0

Contexts:
"""


def fuzzing_items(contexts: Sequence[Context]) -> list[Item]:
    """Ask one question per context, in the order of the contexts."""
    maximum = calculate_max_activation(c.activations for c in contexts)
    fires = [_firing(c, maximum) for c in contexts]
    firing = sorted((i for i, tokens in enumerate(fires) if tokens), key=lambda i: -contexts[i].peak)
    wrong = {i for place, i in enumerate(firing) if place % 2 and min(contexts[i].activations) <= 0}
    typical = median_low(len(fires[i]) for i in firing) if firing else 1
    ids = {contexts[i].token_ids[t] for i in firing for t in fires[i]}
    return [
        _item(c, tokens, None)
        if tokens and i not in wrong
        else _item(c, _others(c, len(tokens) or typical, ids), _rival(c, bool(tokens)))
        for i, (c, tokens) in enumerate(zip(contexts, fires, strict=True))
    ]


def _firing(context: Context, maximum: float) -> tuple[int, ...]:
    """Return the tokens that an explainer would see marked: strength 1 or more, and a peak that fires at all."""
    if context.peak <= 0:
        return ()
    strengths = quantise(context.activations, maximum).tolist()
    peak = context.activations.index(context.peak)
    return tuple(i for i, r in enumerate(strengths) if r >= 1 or i == peak)


def _others(context: Context, n: int, firing_ids: set[int]) -> tuple[int, ...]:
    """Draw at most n silent tokens by a hash of the context; in a silent context, tempting ones first."""
    tempting = firing_ids if context.peak <= 0 else set()
    silent = [i for i, a in enumerate(context.activations) if a <= 0]
    drawn = sorted(silent, key=lambda i: (context.token_ids[i] not in tempting, _hash(context, i)))
    return tuple(sorted(drawn[:n]))


def _hash(context: Context, i: int) -> bytes:
    return hashlib.sha256(json.dumps([i, context.document, *context.token_ids]).encode()).digest()


def _rival(context: Context, fires: bool) -> str:
    return "same" if fires else "hard" if context.source is Source.HARD else "random"


def _item(context: Context, marked: tuple[int, ...], rival: str | None) -> Item:
    runs = groupby(range(len(context.tokens)), key=set(marked).__contains__)
    shown = ((is_marked, in_line("".join(context.tokens[i] for i in run))) for is_marked, run in runs)
    return Item(context, "".join(f"<<{text}>>" if is_marked else text for is_marked, text in shown), rival, marked)


def fuzzing_prompt(label: Label, shown: Sequence[str], config: ScorerConfig) -> Prompt:
    return match_prompt("fuzzing", INSTRUCTION, label, shown, config)


async def score_by_fuzzing(
    label: Label, contexts: Sequence[Context], config: ScorerConfig, llm: LLM, lookups: Lookups, measure: Measure
) -> tuple[Score, ...]:
    """Return the scores of the table above, always all of them."""
    items = fuzzing_items(contexts)
    answers = await ask_matches(
        [item.shown for item in items],
        lambda shown: fuzzing_prompt(label, shown, config),
        config.contexts_per_request,
        llm,
    )
    yes = [a.yes for a in answers]
    scores = (
        measure.accuracy("fuzzing", items, yes),
        measure.accuracy("fuzzing_same", items, yes, "same"),
        measure.accuracy("fuzzing_random", items, yes, "random"),
        measure.accuracy("fuzzing_hard", items, yes, "hard"),
        measure.auroc("fuzzing_auroc", items, [a.likely for a in answers], compared=lookups.mean(items)),
    )
    return with_reason(scores, [a.reason for a in answers])
