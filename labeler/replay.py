"""The LLM requests behind a result: prompts made again, replies read from the ledger.

Prompts are not stored: evidence and recipe determine them exactly. So the feature is labeled again by an
LLM that sends nothing and records each request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from labeler.errors import EndpointError
from labeler.evidence.store import EvidenceFolder
from labeler.llm.ledger import Ledger, StoredReply, ledger_key
from labeler.llm.prompt import Answering, AnyPrompt, AnyReply
from labeler.llm.request_format import reply_of
from labeler.pipeline import label_feature
from labeler.recipe import Recipe
from labeler.records import Usage
from labeler.steps.null import NullLabels
from labeler.steps.read import read_evidence


@dataclass(frozen=True)
class ReplayedRequest:
    """A request and its reply, which is None if the ledger has none."""

    prompt: AnyPrompt
    reply: StoredReply | None


def replay_requests(
    folder: EvidenceFolder, feature_index: int, recipe: Recipe, ledger: Ledger
) -> tuple[ReplayedRequest, ...]:
    """Return all requests behind a result, in the order of asking, or none if no LLM was asked.

    The list ends at a missing reply that later prompts depend on. Raises NotFoundError or FormatError.
    """
    evidence = read_evidence(folder, feature_index, recipe)
    replay = _Replay(ledger)
    # The labels of the null are look-ups. They cost no request, but a question may contain them.
    null = NullLabels(folder, recipe).for_feature(feature_index) if recipe.intervenes else []
    asyncio.run(label_feature(evidence, recipe, replay, null))
    return tuple(replay.asked)


class _Replay(Answering):
    """An LLM that answers only from the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.asked: list[ReplayedRequest] = []

    async def ask(self, prompt: AnyPrompt) -> AnyReply:
        place = len(self.asked)
        self.asked.append(ReplayedRequest(prompt, None))
        stored = await self._ledger.get(ledger_key(prompt))
        if stored is None:
            raise EndpointError("this reply is not in the ledger")
        self.asked[place] = ReplayedRequest(prompt, stored)
        return reply_of(stored, prompt, Usage(1, stored.tokens_in, stored.tokens_out, None), from_ledger=True)
