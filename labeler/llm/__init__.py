"""The one way to any OpenAI-compatible endpoint: limits, retries, usage, and a ledger of what was paid for.

Stages see only `LLM`, `Prompt` and `Reply`. The client behind them (`labeler.llm.client.OpenAILLM`) is made at the
entry points; importing this package does not import `openai`.
"""

from labeler.llm.prompt import LLM, Echo, EchoPrompt, EmbeddingPrompt, Embeddings, Message, Prompt, Reply, TokenChoice

__all__ = ["LLM", "Echo", "EchoPrompt", "EmbeddingPrompt", "Embeddings", "Message", "Prompt", "Reply", "TokenChoice"]
