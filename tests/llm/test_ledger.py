from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from labeler.llm.ledger import MemoryLedger, StoredReply, ledger_key
from labeler.llm.prompt import EchoPrompt, EmbeddingPrompt, Message, Prompt

PROMPT = Prompt("m", (Message("user", "hello"),), 10, 0.0, {"type": "object"}, "explain")


@pytest.mark.parametrize(
    "other",
    [
        replace(PROMPT, model="n"),
        replace(PROMPT, messages=(Message("system", "hello"),)),
        replace(PROMPT, messages=(Message("user", "hello "),)),
        replace(PROMPT, messages=(*PROMPT.messages, *PROMPT.messages)),
        replace(PROMPT, max_tokens=11),
        replace(PROMPT, temperature=None),
        replace(PROMPT, json_schema=None),
        replace(PROMPT, attempt=2),
        replace(PROMPT, top_logprobs=5),
    ],
)
def test_all_that_decides_a_reply_is_in_its_key(other: Prompt) -> None:
    assert ledger_key(other) != ledger_key(PROMPT)


def test_a_key_is_the_same_in_every_process() -> None:
    """A key that changes loses what was paid for: written down, so that a change of its making is seen."""
    assert ledger_key(PROMPT) == "f459e7e9b0c77522c951875560480b5b2a5f5a04dc2fded3789606cfdd0a0565"
    assert ledger_key(replace(PROMPT, purpose="other")) == ledger_key(PROMPT)


def test_kinds_of_prompts_have_keys_of_their_own() -> None:
    echo, embedding = EchoPrompt("m", "a text", 5), EmbeddingPrompt("m", ("a text",))
    assert ledger_key(echo) == "2ca5b0c660d1681abd6ad1ca8d96e64a85620d33f790565644be439a8308e89f"
    assert ledger_key(embedding) == "a10c874fe7c51e9bafb4cb35355e41f6b5d55e9e610d763080f89b78b509c3b2"
    assert ledger_key(replace(echo, purpose="other")) == ledger_key(echo)
    others = [
        replace(echo, text="b"),
        replace(echo, top_logprobs=6),
        replace(echo, model="n"),
        replace(embedding, texts=("a", "text")),
        replace(embedding, model="n"),
    ]
    assert len({ledger_key(p) for p in (echo, embedding, *others)}) == 7


def test_any_text_has_a_key() -> None:
    assert len(ledger_key(replace(PROMPT, messages=(Message("user", "\ud800 ⏎ \x00"),)))) == 64


def test_the_first_reply_under_a_key_stays() -> None:
    async def run() -> None:
        ledger, bought = MemoryLedger(), StoredReply("a", "stop", "m", 1, 2, "explain")
        assert await ledger.get("k") is None
        await ledger.put("k", bought)
        await ledger.put("k", replace(bought, text="b"))
        assert await ledger.get("k") == bought
        assert len(ledger) == 1

    asyncio.run(run())
