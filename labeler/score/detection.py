"""Detection (Paulo et al. 2024): a model that sees only the label says in which contexts the feature fires.

name                     asked about                               measure
detection                firing contexts; RANDOM and HARD ones     balanced accuracy, chance 0.5
detection_random, _hard  the same against negatives of one kind    balanced accuracy
detection_recall_weak    firing contexts of deciles 1 to 5         share recognised
detection_recall_strong  firing ones of deciles 6 to 10, and TOP   share recognised
detection_auroc          as detection                              AUROC, by how sure the model was of each
"""

from __future__ import annotations

from collections.abc import Sequence

from labeler.evidence.order import N_DECILES
from labeler.llm import LLM, Prompt
from labeler.llm.spelling import LEGEND, in_line
from labeler.recipe import ScorerConfig
from labeler.records import Context, Label, Score, Source
from labeler.score.items import Item, Measure, with_reason
from labeler.score.lookups import Lookups
from labeler.score.matching import ask_matches, match_prompt

INSTRUCTION = f"""\
A feature of a language model fires on some tokens of a text and is silent on the others. Below are contexts, one a \
line, each behind its number. {LEGEND} Last comes a description of what one feature detects. In which contexts does it \
fire on at least one token? It may be none of them.

Reply with the numbers of these contexts in rising order, separated by commas and ended by 0, and nothing else. Two \
examples of the form:
12,15,31,0
0

Contexts:
"""


def detection_items(contexts: Sequence[Context]) -> list[Item]:
    """Ask one question per context. A context that was drawn without looking at the feature may be of either kind."""
    return [
        Item(c, in_line(c.text), None if c.peak > 0 else "hard" if c.source is Source.HARD else "random")
        for c in contexts
    ]


def detection_prompt(label: Label, shown: Sequence[str], config: ScorerConfig) -> Prompt:
    return match_prompt("detection", INSTRUCTION, label, shown, config)


async def score_by_detection(
    label: Label, contexts: Sequence[Context], config: ScorerConfig, llm: LLM, lookups: Lookups, measure: Measure
) -> tuple[Score, ...]:
    """Return the scores of the table above, always all of them."""
    items = detection_items(contexts)
    answers = await ask_matches(
        [item.shown for item in items],
        lambda shown: detection_prompt(label, shown, config),
        config.contexts_per_request,
        llm,
    )
    yes = [a.yes for a in answers]
    firing = [(item, y) for item, y in zip(items, yes, strict=True) if item.positive]
    weak, strong = ([pair for pair in firing if _is_weak(pair[0]) is wanted] for wanted in (True, False))
    scores = (
        measure.accuracy("detection", items, yes),
        measure.accuracy("detection_random", items, yes, "random"),
        measure.accuracy("detection_hard", items, yes, "hard"),
        measure.recall("detection_recall_weak", weak),
        measure.recall("detection_recall_strong", strong),
        measure.auroc("detection_auroc", items, [a.likely for a in answers], compared=lookups.strongest(items)),
    )
    return with_reason(scores, [a.reason for a in answers])


def _is_weak(item: Item) -> bool | None:
    """Return True if the feature fires more weakly there than in half of its windows; None where that is unknown.

    Only SAMPLED contexts are ranked among its windows, and TOP ones are the highest; a RANDOM one may be either.
    """
    if item.context.source is Source.TOP:
        return False
    return item.context.stratum <= N_DECILES // 2 if item.context.stratum else None
