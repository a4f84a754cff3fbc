"""The calls of OpenAI's Batch API: upload files, make a batch, look at it, download its results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, BinaryIO

import openai

from labeler.errors import ConfigurationError, EndpointDownError
from labeler.llm.endpoint import Problem
from labeler.llm.exchange import OnRetry, Retry, no_retry_told
from labeler.llm.patience import Patience
from labeler.llm.sender import Sender


class BatchApi:
    """The endpoint's batch calls. Raises EndpointDownError where it is out of reach, ConfigurationError where it
    refuses a call.
    """

    def __init__(
        self,
        sender: Sender,
        patience: Patience,
        sleep: Callable[[float], Awaitable[None]],
        on_retry: OnRetry = no_retry_told,
    ) -> None:
        self._sender, self._patience, self._sleep, self._on_retry = sender, patience, sleep, on_retry

    async def upload(self, lines: BinaryIO) -> str:
        """Upload a file with these lines and return its id."""

        async def send() -> str:
            lines.seek(0)
            return (await self._sender.http.files.create(file=("batch.jsonl", lines), purpose="batch")).id

        file_id: str = await self._patiently(send)
        return file_id

    async def create(self, ours: str, path: str, file_id: str) -> str:
        """Make a batch that carries the id `ours`, and return the endpoint's id.

        The call is not tried twice: it might make two batches.
        """
        whole_path: Any = f"/v1{path}"  # one of the paths that the library's type names
        try:
            batch = await self._sender.http.batches.create(
                input_file_id=file_id, endpoint=whole_path, completion_window="24h", metadata={"labeler": ours}
            )
        except openai.APIConnectionError as error:
            # The batch may exist all the same; only the endpoint knows.
            if (found := await self.find(ours)) is not None:
                return found
            raise EndpointDownError(
                f"{self._sender.where} closed the connection while a batch was made: {error}"
            ) from None
        except openai.APIStatusError as error:
            raise self._turned_down(error) from None
        return batch.id

    async def find(self, ours: str) -> str | None:
        """Find the endpoint's id of the batch that carries `ours`; None where there is none."""

        async def search() -> str | None:
            async for batch in self._sender.http.batches.list(limit=100):
                if (batch.metadata or {}).get("labeler") == ours:
                    return batch.id
            return None

        found: str | None = await self._patiently(search)
        return found

    async def look(self, batch_id: str) -> Any:
        return await self._patiently(lambda: self._sender.http.batches.retrieve(batch_id))

    async def content(self, file_id: str) -> bytes:
        answer = await self._patiently(lambda: self._sender.http.files.content(file_id))
        content: bytes = answer.content
        return content

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Retry a call for as long as patience lasts; the call must be safe to make twice."""
        waited, n_failures = 0.0, 0
        while True:
            try:
                return await call()
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                n_failures += 1
                wait = self._patience.wait(n_failures, None, 0.5)
                said = self._sender.without_key(str(error))
                if n_failures > self._patience.n_retries or waited + wait > self._patience.longest_total:
                    raise EndpointDownError(
                        f"{self._sender.where} cannot be reached for its batches: {said}; the batches continue, and "
                        "the same command collects them"
                    ) from None
                longest = self._patience.longest(n_failures, self._patience.n_retries, wait, waited)
                self._on_retry(Retry(f"{self._sender.where}: {said}", wait, longest))
            except openai.APIStatusError as error:
                raise self._turned_down(error) from None
            waited += wait
            await self._sleep(wait)

    def _turned_down(self, error: openai.APIStatusError) -> ConfigurationError:
        problem = Problem.of(error.status_code, error.body, error.message)
        hint = "; this endpoint may have no Batch API: leave out --batch" if error.status_code in (404, 405) else ""
        return ConfigurationError(f"for a batch, {self._sender.said(problem)}{hint}")
