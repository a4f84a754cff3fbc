"""OpenAI's Batch API: the same requests at half the price, answered within a day.

    add ... add ──► a JSONL file for each model and purpose ──submit──► upload, create ──collect──► the ledger

A batch is written to the journal before it is requested, and carries the journal's id. So a process that is killed at
any moment finds its batches again and pays for none twice. One process at a time submits for the same work.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, Protocol

from labeler.errors import ConfigurationError, EndpointDownError, EndpointError, LLMError
from labeler.llm.batch_api import BatchApi
from labeler.llm.client import OpenAILLM
from labeler.llm.endpoint import Problem, TryAgainError
from labeler.llm.ledger import StoredReply
from labeler.llm.prompt import AnyPrompt, EchoPrompt, EmbeddingPrompt, Prompt
from labeler.llm.request_format import PATHS, read_answer
from labeler.records import Usage

PRICE_FACTOR = 0.5
MAX_REQUESTS = 50_000  # of one batch
MAX_BYTES = 200_000_000

_ENDED = {"completed", "failed", "expired", "cancelled"}
_TRIES = 3  # of a request whose line in the results reports a failure that may pass
_PUT_AT_ONCE = 500

Kind = tuple[str, str, str]  # path, model, purpose


@dataclass(frozen=True)
class BatchRecord:
    """A batch as the journal records it."""

    id: str  # our id
    endpoint: str
    path: str
    model: str
    purpose: str
    n_requests: int
    batch_id: str | None = None  # the endpoint's id, once it has told us
    state: str = "submitting"  # then "submitted", "collected"


class Journal(Protocol):
    def save(self, record: BatchRecord) -> None:
        """Save a record, replacing an older one with its id; durable when it returns."""

    def open(self, endpoint: str) -> list[BatchRecord]:
        """List the records of this endpoint that are not collected, oldest first."""


@dataclass
class Progress:
    """The state of the batches in progress, for a person who waits."""

    n_batches: int = 0
    n_requests: int = 0
    n_answered: int = 0


@dataclass
class _File:
    lines: BinaryIO
    n_requests: int = 0
    n_inputs: int = 0  # texts to embed count one by one
    n_bytes: int = 0
    keys: set[str] = field(default_factory=set)
    expected: Usage = field(default_factory=lambda: Usage(cost_usd=0.0))


class Batches:
    """Requests to one endpoint, in batches. Replies go to the ledger of `llm`; `failures` are the requests without one."""

    def __init__(
        self,
        llm: OpenAILLM,
        journal: Journal,
        *,
        max_requests: int = MAX_REQUESTS,
        max_bytes: int = MAX_BYTES,
        poll_seconds: float = 30.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.failures: dict[str, LLMError] = {}
        self._llm, self._journal = llm, journal
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._poll_seconds, self._sleep, self._on_progress = poll_seconds, sleep, on_progress
        self._api = BatchApi(llm.sender, llm.patience, sleep, llm.on_retry)
        self._files: dict[Kind, _File] = {}
        self._tried_live: set[Kind] = set()
        self._expected: dict[str, Usage] = {}  # record -> usage reserved for all its requests
        self._n_tries: Counter[str] = Counter()
        self._n_news = 0  # replies, failures and refused parameters since the last submission
        llm.budget.waits = False

    async def add(self, key: str, prompt: AnyPrompt) -> None:
        """Add a prompt to the batch of its kind. Raises BudgetError where it exceeds what is left.

        The first prompt of a kind is sent at once, at the full price. So a wrong key or model is an error now and not
        tomorrow, and so is a parameter that the model refuses.
        """
        kind = PATHS[type(prompt)], prompt.model, prompt.purpose
        if kind not in self._tried_live:
            self._tried_live.add(kind)
            await self._ask_live(key, prompt)
            return
        file = self._files.get(kind)
        if file is not None and key in file.keys:
            return
        line = _line(key, prompt, self._llm.sender.parameters_of(prompt))
        n_inputs = len(prompt.texts) if isinstance(prompt, EmbeddingPrompt) else 1
        if file is not None and (
            file.n_inputs + n_inputs > self._max_requests or file.n_bytes + len(line) > self._max_bytes
        ):
            await self._submit(kind)
            file = None
        expected = self._llm.expected(prompt, PRICE_FACTOR)
        await self._llm.budget.reserve(expected)
        if file is None:
            # The file has no name: what a killed run has not submitted is made again.
            file = self._files[kind] = _File(tempfile.TemporaryFile())  # noqa: SIM115 - closed in _submit
        file.lines.write(line)
        file.keys.add(key)
        file.n_requests += 1
        file.n_inputs += n_inputs
        file.n_bytes += len(line)
        file.expected += expected

    async def _ask_live(self, key: str, prompt: AnyPrompt) -> None:
        try:
            await self._llm.ask(prompt)
        except ConfigurationError:
            raise
        except EndpointError as error:
            self.failures[key] = error
        except LLMError:
            pass  # a refusal, or a reply cut short: it is in the ledger

    async def submit(self) -> None:
        """Send all prompts that were added."""
        for kind in list(self._files):
            await self._submit(kind)

    async def _submit(self, kind: Kind) -> None:
        file = self._files.pop(kind)
        with file.lines:
            record = BatchRecord(uuid.uuid4().hex, self._llm.sender.where, *kind, file.n_requests)
            self._expected[record.id] = file.expected
            uploaded = await self._api.upload(file.lines)
        self._journal.save(record)
        batch_id = await self._api.create(record.id, record.path, uploaded)
        self._journal.save(replace(record, batch_id=batch_id, state="submitted"))

    async def collect(self) -> None:
        """Wait for all batches of this endpoint that were ever submitted, and save their replies in the ledger.

        Raises ConfigurationError where the endpoint refused a batch. Raises EndpointDownError where no submitted
        request got a reply: none ever would.
        """
        known = [await self._known(record) for record in self._journal.open(self._llm.sender.where)]
        waiting = [record for record in known if record is not None]
        if not waiting:
            return
        self._n_news, notes = 0, list[str]()
        while waiting:
            batches = [(r, await self._api.look(str(r.batch_id))) for r in waiting]
            self._on_progress(_progress(batches))
            waiting = [r for r, batch in batches if batch.status not in _ENDED]
            for record, batch in batches:
                if batch.status in _ENDED:
                    notes += await self._take(record, batch)
            if waiting:
                await self._sleep(self._poll_seconds)
        if self._n_news == 0:
            raise EndpointDownError(
                f"{self._llm.sender.where}: no request of the last batches was answered: {'; '.join(notes)}"
            )

    async def _known(self, record: BatchRecord) -> BatchRecord | None:
        """Return the record with the endpoint's id; None for a batch that the endpoint never made."""
        if record.batch_id is not None:
            return record
        if (batch_id := await self._api.find(record.id)) is None:
            self._journal.save(replace(record, state="collected"))
            return None
        known = replace(record, batch_id=batch_id, state="submitted")
        self._journal.save(known)
        return known

    async def _take(self, record: BatchRecord, batch: Any) -> list[str]:
        """Save everything that a batch brought in the ledger; return notes for the user if it brought nothing."""
        problems, bought = list[LLMError](), list[Usage]()
        for name in (batch.output_file_id, batch.error_file_id):
            if name is None:
                continue
            replies = self._replies(record, await self._api.content(name), problems)
            while some := list(islice(replies, _PUT_AT_ONCE)):
                await asyncio.gather(*(self._llm.ledger.put(*kept) for kept in some))
                bought += [self._llm.usage_of(reply, _stand_in(record)) for _, reply in some]
        self._n_news += len(bought)
        self._count(record, bought)
        self._journal.save(replace(record, state="collected"))
        if (stop := next((p for p in problems if isinstance(p, ConfigurationError)), None)) is not None:
            raise stop
        return _notes(batch)

    def _replies(
        self, record: BatchRecord, content: bytes, problems: list[LLMError]
    ) -> Iterator[tuple[str, StoredReply]]:
        """Yield the replies in a file of results.

        A line that holds no reply, and need not be sent again, is added to `problems`.
        """
        for key, result in _results(content):
            try:
                yield key, self._read(record, key, result)
            except TryAgainError:
                self._n_tries[key] += 1
                # A failure that may pass counts as news, and so is sent again only a few times.
                self._n_news += result.get("response") is not None
            except LLMError as error:
                problems.append(error)

    def _read(self, record: BatchRecord, key: str, result: dict[str, Any]) -> StoredReply:
        """Return the reply on one line of the results.

        Raises TryAgainError for a request to send again, or the LLMError on the line.
        """
        response = result.get("response")
        if not response:
            raise TryAgainError(str(result.get("error")))
        prompt = _stand_in(record)
        if response["status_code"] == 200:
            return replace(read_answer(response["body"], prompt, self._llm.sender.where), price_factor=PRICE_FACTOR)
        problem = Problem.of(response["status_code"], response["body"])
        if self._n_tries[key] + 1 < _TRIES and self._llm.sender.learns_from(problem, prompt):
            raise TryAgainError(problem.message)
        error = self._llm.sender.error_of(problem, prompt)
        if isinstance(error, TryAgainError):
            if self._n_tries[key] + 1 < _TRIES:
                raise error
            error = EndpointError(f"{error} [in {_TRIES} batches]")
        self._n_news += 1
        self.failures[key] = error
        raise error

    def _count(self, record: BatchRecord, bought: list[Usage]) -> None:
        """Replace the expected usage by that of the replies."""
        self._llm.spent = sum(bought, self._llm.spent)
        expected = self._expected.pop(record.id, None)
        if expected is None:
            return  # submitted by an earlier run, from that run's budget
        each = _part(expected, record.n_requests)
        for i in range(record.n_requests):
            self._llm.budget.settle(each, bought[i] if i < len(bought) else None)


def _line(key: str, prompt: AnyPrompt, parameters: dict[str, Any]) -> bytes:
    request = {"custom_id": key, "method": "POST", "url": f"/v1{PATHS[type(prompt)]}", "body": parameters}
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"


def _results(content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in BytesIO(content):  # without a copy
        if line.strip():
            result = json.loads(line)
            yield result["custom_id"], result


def _stand_in(record: BatchRecord) -> AnyPrompt:
    """Make a prompt of the batch's kind, with all that reading an answer needs from the one that was sent."""
    if record.path == PATHS[EchoPrompt]:
        return EchoPrompt(record.model, "", 0, record.purpose)
    if record.path == PATHS[EmbeddingPrompt]:
        return EmbeddingPrompt(record.model, (), record.purpose)
    return Prompt(record.model, (), 0, purpose=record.purpose)


def _part(usage: Usage, n: int) -> Usage:
    return Usage(0, usage.tokens_in // n, usage.tokens_out // n, None if usage.cost_usd is None else usage.cost_usd / n)


def _progress(batches: list[tuple[BatchRecord, Any]]) -> Progress:
    answered = (b.request_counts.completed + b.request_counts.failed for _, b in batches if b.request_counts)
    return Progress(len(batches), sum(r.n_requests for r, _ in batches), sum(answered))


def _notes(batch: Any) -> list[str]:
    said = [str(e.message) for e in (batch.errors.data or [])] if batch.errors else []
    return [f"batch {batch.id} {batch.status}{': ' if said else ''}{', '.join(said)}"]
