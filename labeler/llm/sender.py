"""Single requests to an OpenAI-compatible endpoint: the body to send, and the reply or the reason for none."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any

import openai

from labeler.errors import ConfigurationError, LLMError
from labeler.llm.endpoint import Problem, TryAgainError, check_base_url, error_of, is_loopback, shown
from labeler.llm.ledger import StoredReply
from labeler.llm.patience import retry_after
from labeler.llm.prompt import AnyPrompt
from labeler.llm.request_format import (
    OPTIONAL,
    PATHS,
    NoPromptLogprobs,
    no_prompt_logprobs,
    parameters_of,
    read_body,
    unsupported,
)

OPENAI = "https://api.openai.com/v1"

_SHORTEST_KEY = 8

log = logging.getLogger(__name__)


class Sender:
    """The HTTP side of a client. `http` is the openai library's own client, for files and batches."""

    def __init__(
        self,
        base_url: str | None,
        api_key: str | None,
        timeout: float,  # seconds, of one request
        *,
        reached: Callable[[str], None],  # called with the model at any answer, success or failure
        http_client: Any,
        clock: Callable[[], float],
    ) -> None:
        base_url = base_url or OPENAI
        check_base_url(base_url)
        if not api_key and not is_loopback(base_url):
            raise ConfigurationError(
                f"{shown(base_url)} needs a key: set OPENAI_API_KEY (to any word, where the endpoint asks for none)"
            )
        self.where = shown(base_url)
        self._key, self._timeout = api_key, timeout
        self._reached, self._clock = reached, clock
        self._turned_down: defaultdict[str, set[str]] = defaultdict(set)  # model -> parameters that it does not accept
        self.http = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none-needed",
            max_retries=0,  # our retries obey the ledger, the slots and Patience
            timeout=2 * timeout,  # longer than ours: this transport calls any lost connection a timeout
            http_client=http_client or openai.DefaultAioHttpClient(),
        )

    async def aclose(self) -> None:
        await self.http.close()

    async def send(self, prompt: AnyPrompt) -> StoredReply:
        """Send one request and return its reply; it is sent again without a parameter that this model refuses.

        Raises TryAgainError for a failure that may pass, and an LLMError for one that will not.
        """
        while True:
            sent = self.parameters_of(prompt)
            try:
                body = await self._post(PATHS[type(prompt)], sent)
                self._reached(prompt.model)
                return read_body(body, prompt, self.where)
            except openai.APIStatusError as error:
                self._reached(prompt.model)
                problem = Problem.of(error.status_code, error.body, error.message)
                if "prompt_logprobs" in sent and "prompt_logprobs" in problem.names:
                    raise no_prompt_logprobs(prompt, self.where) from None
                if not self.learns_from(problem, prompt, sent):
                    raise self.error_of(problem, prompt, retry_after(error.response.headers, self._clock())) from None
            except NoPromptLogprobs:
                if "echo" not in sent:
                    raise
                self._turned_down[prompt.model].add("echo")

    async def _post(self, path: str, sent: dict[str, Any]) -> str:
        """Return the body of a 200 as text: endpoints differ in details that would break a typed client."""
        try:
            async with asyncio.timeout(self._timeout):
                # A plain post: the client's typed methods spend more time on the messages than on sending them.
                return await self.http.post(path, body=sent, cast_to=str)
        except TimeoutError:
            late = f"{self.where} gave no complete answer within {self._timeout:g} s"
            raise TryAgainError(late, kind="timeout") from None
        except openai.APIConnectionError as error:
            why = f" ({error.__cause__})" if error.__cause__ else ""
            away = f"{self.where} cannot be reached, or hung up{why}; is the server running?"
            raise TryAgainError(away, kind="connection") from None

    def parameters_of(self, prompt: AnyPrompt) -> dict[str, Any]:
        return parameters_of(prompt, self._turned_down[prompt.model])

    def learns_from(self, problem: Problem, prompt: AnyPrompt, sent: Collection[str] = OPTIONAL) -> bool:
        """Return True if the model refused an optional parameter, which is then never sent to it again."""
        name = unsupported(prompt, sent, problem.names)
        if name is None:
            return False
        if name not in self._turned_down[prompt.model]:
            log.warning("%s does not take %s for %s: asking without it from now on", self.where, name, prompt.model)
        self._turned_down[prompt.model].add(name)
        return True

    def error_of(self, problem: Problem, prompt: AnyPrompt, asked: float | None = None) -> LLMError | TryAgainError:
        return error_of(problem, self.said(problem), prompt.model, asked)

    def said(self, problem: Problem) -> str:
        return self.without_key(f"{self.where} answered {problem.status}: {problem.message}")

    def without_key(self, text: str) -> str:
        """Remove the key from a text: endpoints often repeat the key that they refuse.

        A plain word in place of a key is no secret.
        """
        return text.replace(self._key, "***") if self._key and len(self._key) >= _SHORTEST_KEY else text
