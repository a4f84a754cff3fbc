"""Requests to an LLM and its replies: text in, text out, with its cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from labeler.records import Usage


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """One request. Everything in it but `purpose` decides the reply, and so its key in the ledger."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int  # of the reply as we read it; hidden reasoning gets room beside it
    temperature: float | None = None  # None: not sent, the endpoint's own default
    json_schema: Mapping[str, Any] | None = None  # what the reply should follow, where the endpoint can enforce it
    purpose: str = ""  # "explain", "simulate": the use of the money
    top_logprobs: int = 0  # alternatives wanted at each token of the reply, 0..20; 0 asks for no log-probabilities
    attempt: int = 1  # 2 when the first reply could not be read; asking again must not find that reply in the ledger


@dataclass(frozen=True)
class TokenChoice:
    """One token that a model wrote or read, with the alternatives to it."""

    token: str
    logprob: float  # natural logarithm
    alternatives: tuple[tuple[str, float], ...]  # (token, logprob), most likely first; may hold the token itself


@dataclass(frozen=True)
class Reply:
    """A reply that is complete and has text.

    `usage` is what the reply cost when it was bought, by this run or an earlier one. So a resumed run reports the same
    cost for a feature as an undisturbed one. `OpenAILLM.spent` is what this run itself has spent: the sum over replies
    that are not `from_ledger`.
    """

    text: str
    finish_reason: str
    usage: Usage
    model: str  # as the endpoint names it
    from_ledger: bool = False
    choices: tuple[TokenChoice, ...] | None = None  # the reply's tokens; None where none were asked for or came


@dataclass(frozen=True)
class EchoPrompt:
    """A text that a completions endpoint reads and returns, with the model's expectation at each token."""

    model: str
    text: str
    top_logprobs: int  # alternatives wanted at each token
    purpose: str = ""


@dataclass(frozen=True)
class Echo:
    """The model's expectation at each token of a text. The first token has no alternatives, and the logprob 0.

    Some servers put a token before the text ("<s>"), and bytes of one character may be shown as "\ufffd".
    """

    tokens: tuple[TokenChoice, ...]
    usage: Usage
    model: str
    from_ledger: bool = False


@dataclass(frozen=True)
class EmbeddingPrompt:
    """Texts to embed in a model's space."""

    model: str
    texts: tuple[str, ...]
    purpose: str = "embed"


@dataclass(frozen=True)
class Embeddings:
    vectors: tuple[tuple[float, ...], ...]  # as many as texts, in their order
    usage: Usage
    model: str
    from_ledger: bool = False


AnyPrompt = Prompt | EchoPrompt | EmbeddingPrompt
AnyReply = Reply | Echo | Embeddings


class LLM(Protocol):
    """Any source of replies. All three methods raise an LLMError that carries the cost of the failure."""

    async def complete(self, prompt: Prompt) -> Reply: ...

    async def echo(self, prompt: EchoPrompt) -> Echo: ...

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings: ...


class Answering(ABC):
    """An LLM with one way to answer prompts of all kinds: `ask`, which returns the reply of the prompt's kind."""

    @abstractmethod
    async def ask(self, prompt: AnyPrompt) -> AnyReply: ...

    async def complete(self, prompt: Prompt) -> Reply:
        reply = await self.ask(prompt)
        assert isinstance(reply, Reply)
        return reply

    async def echo(self, prompt: EchoPrompt) -> Echo:
        reply = await self.ask(prompt)
        assert isinstance(reply, Echo)
        return reply

    async def embed(self, prompt: EmbeddingPrompt) -> Embeddings:
        reply = await self.ask(prompt)
        assert isinstance(reply, Embeddings)
        return reply
