"""The ledger of replies: a reply that was paid for is never bought a second time.

The client looks into the ledger before every request and adds every reply, readable or not. A key contains everything
that decides a reply, so an interrupted run asks only for what it has not yet received.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from labeler.llm.prompt import AnyPrompt, EchoPrompt, EmbeddingPrompt


@dataclass(frozen=True)
class StoredReply:
    """A reply as it was bought, refusals and unreadable ones included."""

    text: str  # the model's text; where it refused, the refusal
    finish_reason: str  # as the endpoint says ("stop", "length", "content_filter"); ours: "refusal", "no choices"
    model: str  # as the endpoint names it, which may be more precise than the name in the request
    tokens_in: int  # 0 where the endpoint does not say
    tokens_out: int
    purpose: str  # "explain" or "simulate": what the money went to
    detail: Any = None  # as JSON: log-probabilities, or vectors (labeler/llm/detail.py)
    price_factor: float = 1.0  # of the list price: 0.5 for what came by the Batch API


class Ledger(Protocol):
    async def get(self, key: str) -> StoredReply | None:
        """Return the reply bought under this key (64 hexadecimal digits); None where there is none."""

    async def put(self, key: str, reply: StoredReply) -> None:
        """Save a reply; it is durable when this returns, and also when the caller is canceled in between.

        A second `put` under one key (two workers on one feature) keeps the first, without error.
        """


class MemoryLedger:
    """A ledger in memory, for one process. With `most`, it keeps only that many of the newest replies."""

    def __init__(self, most: int | None = None) -> None:
        self._replies: dict[str, StoredReply] = {}
        self._most = most

    async def get(self, key: str) -> StoredReply | None:
        return self._replies.get(key)

    async def put(self, key: str, reply: StoredReply) -> None:
        self._replies.setdefault(key, reply)
        if self._most is not None and len(self._replies) > self._most:
            del self._replies[next(iter(self._replies))]

    def __len__(self) -> int:
        return len(self._replies)


def ledger_key(prompt: AnyPrompt) -> str:
    """Return the SHA-256 of all that decides the reply: model, messages, parameters, schema, attempt."""
    decides = asdict(prompt)
    del decides["purpose"]
    if isinstance(prompt, EchoPrompt | EmbeddingPrompt):
        decides["kind"] = type(prompt).__name__
    elif prompt.top_logprobs == 0:
        # Keys last forever: older prompts lacked this field, and their replies are still worth money.
        del decides["top_logprobs"]
    canonical = json.dumps(decides, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
