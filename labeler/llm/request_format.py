"""The HTTP form of each kind of prompt: path, body, and the reading of a 200's body.

    Prompt           /chat/completions
    EchoPrompt       /completions, with `echo` or with vLLM's `prompt_logprobs`
    EmbeddingPrompt  /embeddings

A request that is sent now and a line in a batch file have the same form.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from labeler.errors import ConfigurationError, RefusedError, UnreadableReply
from labeler.llm.detail import chat_logprobs, choices_of, packed_vectors, prompt_logprobs, vectors_of
from labeler.llm.endpoint import TryAgainError
from labeler.llm.ledger import StoredReply
from labeler.llm.prompt import AnyPrompt, AnyReply, Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Prompt, Reply
from labeler.records import Usage

# A model that takes max_completion_tokens counts its hidden reasoning in it: room beside the reply that we read.
REASONING_TOKENS = 8_000

PATHS: dict[type[AnyPrompt], str] = {
    Prompt: "/chat/completions",
    EchoPrompt: "/completions",
    EmbeddingPrompt: "/embeddings",
}

# Parameters that an endpoint or a model may not know, and the words by which its refusal names them.
_OPTIONAL: dict[type[AnyPrompt], dict[str, tuple[str, ...]]] = {
    Prompt: {
        "response_format": ("response_format", "json_schema"),
        "logprobs": ("logprobs",),
        "temperature": ("temperature",),
        "max_tokens": ("max_completion_tokens",),  # "... use 'max_completion_tokens' instead"
    },
    EchoPrompt: {"echo": ("echo",)},
    EmbeddingPrompt: {"encoding_format": ("encoding_format",)},
}

OPTIONAL = frozenset(name for names in _OPTIONAL.values() for name in names)


class NoPromptLogprobs(ConfigurationError):  # noqa: N818 - what the endpoint has not
    """The endpoint completes a text but gives no log-probabilities of the text itself."""


def no_prompt_logprobs(prompt: AnyPrompt, where: str) -> NoPromptLogprobs:
    return NoPromptLogprobs(
        f"{where} gives no log-probabilities of a prompt for model {prompt.model!r} (completions with `echo`, as vLLM "
        "serves them): choose another way to simulate, or another server"
    )


def parameters_of(prompt: AnyPrompt, turned_down: Collection[str]) -> dict[str, Any]:
    """Build the request's JSON, without the optional parameters that the model has refused."""
    if isinstance(prompt, EchoPrompt):
        return _echo_parameters(prompt, turned_down)
    if isinstance(prompt, EmbeddingPrompt):
        coded = {} if "encoding_format" in turned_down else {"encoding_format": "base64"}
        return {"model": prompt.model, "input": list(prompt.texts), **coded}
    return _chat_parameters(prompt, turned_down)


def _chat_parameters(prompt: Prompt, turned_down: Collection[str]) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "model": prompt.model,
        "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
    }
    if "max_tokens" in turned_down:
        parameters["max_completion_tokens"] = prompt.max_tokens + REASONING_TOKENS
    else:
        parameters["max_tokens"] = prompt.max_tokens
    if prompt.temperature is not None and "temperature" not in turned_down:
        parameters["temperature"] = prompt.temperature
    if prompt.json_schema is not None and "response_format" not in turned_down:
        schema = {"name": prompt.purpose or "reply", "schema": dict(prompt.json_schema)}
        parameters["response_format"] = {"type": "json_schema", "json_schema": schema}
    if prompt.top_logprobs and "logprobs" not in turned_down:
        parameters |= {"logprobs": True, "top_logprobs": prompt.top_logprobs}
    return parameters


def _echo_parameters(prompt: EchoPrompt, turned_down: Collection[str]) -> dict[str, Any]:
    # One token is written and cut off again: some servers cannot write none.
    parameters = {"model": prompt.model, "prompt": prompt.text, "temperature": 0.0, "max_tokens": 1}
    if "echo" in turned_down:
        return parameters | {"prompt_logprobs": prompt.top_logprobs}
    return parameters | {"echo": True, "logprobs": prompt.top_logprobs}


def unsupported(prompt: AnyPrompt, sent: Collection[str], said: str) -> str | None:
    """Return the optional parameter that the endpoint does not accept; None where its refusal names none of those sent."""
    optional = _OPTIONAL[type(prompt)]
    return next((name for name, words in optional.items() if name in sent and any(w in said for w in words)), None)


def read_body(body: str, prompt: AnyPrompt, where: str) -> StoredReply:
    """Read the reply in a 200's body. Raises TryAgainError where that is not an answer to such a prompt."""
    try:
        answer = json.loads(body)
    except ValueError:
        raise TryAgainError(f"{where} answered with something that is not JSON: {body[:100]!r}") from None
    return read_answer(answer, prompt, where)


def read_answer(answer: Any, prompt: AnyPrompt, where: str) -> StoredReply:
    """Read the reply as `read_body` does, from parsed JSON. Raises NoPromptLogprobs too."""
    results = "data" if isinstance(prompt, EmbeddingPrompt) else "choices"
    if not isinstance(answer, dict) or not isinstance(answer.get(results), list):
        # Some gateways report an upstream failure as a 200 with an error in it.
        raise TryAgainError(f"{where} answered with JSON that is not a completion: {str(answer)[:200]!r}")
    usage = _mapping(answer.get("usage"))
    tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    try:
        text, finish_reason, detail = _content(answer[results], prompt, tokens[0], where)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TryAgainError(f"{where} answered with a completion that cannot be read: {error!r}") from None
    return StoredReply(text, finish_reason, str(answer.get("model") or ""), *tokens, prompt.purpose, detail)


def _content(results: list[Any], prompt: AnyPrompt, tokens_in: int, where: str) -> tuple[str, str, Any]:
    if isinstance(prompt, EmbeddingPrompt):
        return "", "stop", packed_vectors(results)
    if isinstance(prompt, EchoPrompt):
        tokens = prompt_logprobs(results[0], tokens_in, prompt.text) if results else None
        if tokens is None:
            raise no_prompt_logprobs(prompt, where)
        return "", "stop", tokens
    if not results:
        return "", "no choices", None
    choice = _mapping(results[0])
    return *_text_and_reason(choice), chat_logprobs(choice)


def _text_and_reason(choice: Mapping[str, Any]) -> tuple[str, str]:
    message = _mapping(choice.get("message"))
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        return message["refusal"], "refusal"
    content = message.get("content")
    return content if isinstance(content, str) else "", str(choice.get("finish_reason") or "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def reply_of(stored: StoredReply, prompt: AnyPrompt, usage: Usage, *, from_ledger: bool) -> AnyReply:
    """Return the reply if it is complete. Raises RefusedError or UnreadableReply, which carry its cost."""
    if isinstance(prompt, EchoPrompt):
        return Echo(choices_of(stored.detail), usage, stored.model, from_ledger)
    if isinstance(prompt, EmbeddingPrompt):
        if len(stored.detail) != len(prompt.texts):
            raise UnreadableReply(f"{len(prompt.texts)} vectors", f"{len(stored.detail)} vectors", usage=usage)
        return Embeddings(vectors_of(stored.detail), usage, stored.model, from_ledger)
    if stored.finish_reason in ("refusal", "content_filter"):
        said = f": {' '.join(stored.text.split())[:200]}" if stored.text.strip() else ""
        raise RefusedError(f"{prompt.model} refused ({stored.finish_reason}){said}", usage=usage)
    if stored.finish_reason == "length":
        raise UnreadableReply(f"a complete reply within {prompt.max_tokens} tokens", stored.text, usage=usage)
    if not stored.text.strip():
        raise UnreadableReply("a reply with text", stored.text, usage=usage)
    choices = None if stored.detail is None else choices_of(stored.detail)
    return Reply(stored.text, stored.finish_reason, usage, stored.model, from_ledger, choices)
