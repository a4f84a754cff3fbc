"""The Python client of the service: typed values, automatic paging, and errors that say what to do.

    with Client("http://127.0.0.1:8000") as client:
        for label in client.labels(set=1, score_min=0.5, sort="-score"):
            print(label.feature_index, label.label, label.score)

Errors are those of labeler.errors, in the service's own words; `ServiceError` if the service refuses or fails.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypedDict, TypeVar, Unpack

import httpx2
from pydantic import BaseModel, ValidationError

from labeler import rest_schema
from labeler.errors import ConflictError, InputError, LabelerError, NotFoundError, StorageError
from labeler.files import whole_file
from labeler.records import State
from labeler.terms import ACTIVE, OPEN, RequestState

M = TypeVar("M", bound=BaseModel)
_PAGE = 500
_RESTART_SECONDS = 60.0


class ServiceError(LabelerError):
    """The service failed, or refused a request for its key or its rate."""

    exit_code = 3

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


_ERRORS: dict[int, type[LabelerError]] = {
    404: NotFoundError,
    409: ConflictError,
    413: InputError,
    422: InputError,
    503: StorageError,
}


class LabelFilters(TypedDict, total=False):
    """The filters and the order of `Client.labels`; a type checker knows them by name."""

    sae: int | str | None
    set: int | None
    state: State | str | None
    explainer: str | None
    recipe: str | None  # its hash
    text: str | None  # words and "phrases"; -word: without it
    score_min: float | None
    score_max: float | None
    score_low_min: float | None
    score_high_max: float | None
    density_min: float | None
    density_max: float | None
    width_max: float | None
    reviewed: str | None
    sort: str | None  # a column that can be sorted, such as "score"; with "-" before it, the highest first


class Client:
    """A client of the service. `url` and `key` default to LABELER_URL and LABELER_KEY. Reads are tried again."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        attempts: int = 3,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        key = key or os.environ.get("LABELER_KEY")
        url = url or os.environ.get("LABELER_URL") or "http://127.0.0.1:8000"
        if not url.startswith(("http://", "https://")):
            raise InputError(f"service {url!r}: expected an address such as http://127.0.0.1:8000")
        self._attempts, self._has_key = attempts, bool(key)
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    # SAEs, evidence and label sets

    def saes(self) -> Iterator[rest_schema.Sae]:
        return self._items("/v1/saes", rest_schema.Sae)

    def sae(self, sae: int | str) -> rest_schema.Sae:
        return self._get(f"/v1/saes/{_id('SAE', sae)}", rest_schema.Sae)

    def evidence(self, sae: int | str | None = None) -> Iterator[rest_schema.Evidence]:
        return self._items("/v1/evidence", rest_schema.Evidence, sae=sae)

    def evidence_detail(self, evidence: int | str) -> rest_schema.EvidenceDetail:
        return self._get(f"/v1/evidence/{_id('evidence', evidence)}", rest_schema.EvidenceDetail)

    def add_evidence(self, path: str) -> rest_schema.Evidence:
        """Register a folder that `labeler gather` wrote into the service's data folder."""
        return self._post("/v1/evidence", rest_schema.Evidence, {"path": path})

    def sets(self, sae: int | str | None = None) -> Iterator[rest_schema.LabelSet]:
        return self._items("/v1/sets", rest_schema.LabelSet, sae=sae)

    def set(self, label_set: int) -> rest_schema.LabelSetDetail:
        return self._get(f"/v1/sets/{label_set}", rest_schema.LabelSetDetail)

    def default_set(self, sae: int | str | None = None, feature: int | None = None) -> rest_schema.LabelSet:
        """Return the label set used where none is named: for a feature, for an SAE, or for all. Raises NotFoundError."""
        return self._get("/v1/sets/default", rest_schema.LabelSet, sae=sae, feature=feature)

    def card(self, label_set: int) -> dict[str, Any]:
        return dict(self._request("GET", f"/v1/sets/{label_set}/card").json())

    def card_markdown(self, label_set: int) -> str:
        return self._request("GET", f"/v1/sets/{label_set}/card", params={"format": "markdown"}).text

    def compare(self, a: int, b: int, limit: int = 20) -> rest_schema.Comparison:
        return self._get("/v1/compare", rest_schema.Comparison, a=a, b=b, limit=limit)

    # Features and labels

    def feature(self, sae: int | str, index: int, set: int | None = None) -> rest_schema.Feature:
        return self._get(f"/v1/features/{_id('SAE', sae)}/{index}", rest_schema.Feature, set=set)

    def labels(
        self, *, scores: Mapping[str, float] | None = None, **filters: Unpack[LabelFilters]
    ) -> Iterator[rest_schema.Label]:
        """Yield every label that passes the filters of `GET /v1/labels`, in the order of `sort`.

        `scores` has filters on other scores, such as `{"detection_min": 0.8}`.
        """
        return self._items("/v1/labels", rest_schema.Label, **filters, **(scores or {}))

    def label(self, label_set: int, index: int) -> rest_schema.Label:
        return self._get(f"/v1/labels/{label_set}/{index}", rest_schema.Label)

    def lookup(
        self,
        pairs: Sequence[tuple[int, int]],
        sets: Sequence[int] | None = None,
        choose: str = "default",
        *,
        scores: bool = False,
    ) -> list[rest_schema.Label | None]:
        """Return the label of each (SAE id, feature index), in their order. Any number may be asked for.

        `scores`: each label carries all its scores.
        """
        found: list[rest_schema.Label | None] = []
        for low in range(0, len(pairs), rest_schema.MOST_PAIRS):
            body = {
                "pairs": pairs[low : low + rest_schema.MOST_PAIRS],
                "sets": sets,
                "choose": choose,
                "scores": scores,
            }
            # A look-up changes nothing, so it is tried again like a read.
            reply = self._request("POST", "/v1/labels:lookup", json=body, attempts=self._attempts)
            found += self._read(rest_schema.LookupResponse, reply).labels
        return found

    def search(
        self, words: str, limit: int = 50, sae: int | str | None = None, set: int | None = None, by: str = "words"
    ) -> rest_schema.SearchPage:
        """Search labels by "words" or by "meaning", and return the best hits, at most 500."""
        return self._get("/v1/search", rest_schema.SearchPage, q=words, limit=limit, sae=sae, set=set, by=by)

    def reviews(self, label_set: int, index: int) -> list[rest_schema.Review]:
        return self._get(f"/v1/labels/{label_set}/{index}/reviews", rest_schema.Reviews).items

    def review(
        self, label_set: int, index: int, verdict: str, text: str | None = None, comment: str | None = None
    ) -> rest_schema.Review:
        body = {"verdict": verdict, "text": text, "comment": comment}
        return self._post(f"/v1/labels/{label_set}/{index}/reviews", rest_schema.Review, body)

    def withdraw_review(self, label_set: int, index: int, review: int) -> rest_schema.Review:
        """Withdraw a review. It no longer counts, but stays in the list, with the time of its withdrawal."""
        answer = self._request("DELETE", f"/v1/labels/{label_set}/{index}/reviews/{review}", attempts=self._attempts)
        return rest_schema.Review.model_validate_json(answer.content)

    def export(self, label_set: int, format: str | None, path: Path, *, spreadsheet: bool = False) -> int:
        """Write all rows of a label set to `path` and return the number of bytes. The file appears whole or not at all.

        `format` None: by the file's ending. `spreadsheet`: CSV whose texts no spreadsheet runs as formulas. A broken
        download goes on where it broke, unless the label set has changed since. Raises ConflictError for a label set
        without results.
        """
        from labeler.formats import format_of

        params: dict[str, Any] = {"format": format_of(path, format)}
        if spreadsheet:
            params["spreadsheet"] = True
        with whole_file(path) as file:
            download = _Download(self._http, f"/v1/sets/{label_set}/export", params, file, self._error)
            for attempt in range(self._attempts):
                try:
                    download.go_on()
                    break
                except httpx2.TransportError as error:
                    if attempt == self._attempts - 1:
                        raise StorageError(f"the download of label set {label_set} broke off: {error}") from error
            return file.tell()

    # Jobs

    def submit(
        self, evidence: int | str, features: str = "all", *, idempotency_key: str | None = None, **rest: Any
    ) -> rest_schema.Job:
        """Submit a job that labels features of an evidence, given by id or folder.

        `rest` has further fields of `POST /v1/jobs`: recipe, explainer, simulator, budget, priority.
        """
        if isinstance(evidence, str):
            evidence = self.add_evidence(evidence).id
        body = {"evidence": evidence, "features": features, **rest}
        return self._post("/v1/jobs", rest_schema.Job, body, idempotency_key)

    def submit_gather(self, *, idempotency_key: str | None = None, **request: Any) -> rest_schema.Job:
        return self._post("/v1/jobs:gather", rest_schema.Job, request, idempotency_key)

    def jobs(self, state: str | None = None) -> Iterator[rest_schema.Job]:
        """Yield the jobs, the newest first."""
        return self._items("/v1/jobs", rest_schema.Job, state=state)

    def job(self, job: int) -> rest_schema.JobDetail:
        return self._get(f"/v1/jobs/{job}", rest_schema.JobDetail)

    def change_job(self, job: int, word: str) -> rest_schema.JobDetail:
        """Change a job. `word` is pause, resume, cancel or retry."""
        return self._post(f"/v1/jobs/{job}/{word}", rest_schema.JobDetail, None)

    def failures(self, job: int) -> Iterator[rest_schema.Failure]:
        return self._items(f"/v1/jobs/{job}/failures", rest_schema.Failure)

    def watch(self, job: int) -> Iterator[rest_schema.JobDetail]:
        """Yield every change of a job, until it has ended or is paused. The client waits for a service that restarts."""
        met, lost_at = False, None
        while True:
            try:
                for detail in self._events(job):
                    met, lost_at = True, None
                    yield detail
                    if detail.state not in ACTIVE:
                        return
            except (httpx2.TransportError, StorageError) as error:
                lost_at = lost_at or time.monotonic()
                met = met or not isinstance(error, httpx2.ConnectError | StorageError)
                if not met or time.monotonic() - lost_at > _RESTART_SECONDS:
                    raise self._unreachable(error) from error
            time.sleep(0.3)

    def _events(self, job: int) -> Iterator[rest_schema.JobDetail]:
        with self._http.stream("GET", f"/v1/jobs/{job}/events", timeout=httpx2.Timeout(60.0)) as reply:
            if reply.is_error:
                reply.read()
                raise self._error(reply)
            for line in reply.iter_lines():
                if line.startswith("data: "):
                    yield rest_schema.JobDetail.model_validate_json(line.removeprefix("data: "))

    # Texts

    def ask_activations(self, sae: int, text: str) -> rest_schema.Activations:
        """Ask which features fire on a text. Returns at once; `read_activations` reads the answer later."""
        return self._post("/v1/activations", rest_schema.Activations, {"sae": sae, "text": text})

    def read_activations(self, request: str) -> rest_schema.Activations:
        return self._get(f"/v1/activations/{request}", rest_schema.Activations)

    def activations(self, sae: int, text: str, every: float = 0.2) -> rest_schema.Activations:
        """Find the features that fire on a text, and wait for the answer.

        A gather worker reads the text. If none does, ServiceError gives the reason.
        """
        found = self.ask_activations(sae, text)
        while found.state in OPEN:
            time.sleep(every)
            found = self.read_activations(found.id)
        if found.state is RequestState.FAILED:
            raise ServiceError(200, found.reason or "the text was not read")
        return found

    # Keys, for clients with an admin key

    def keys(self) -> list[rest_schema.Key]:
        return self._get("/v1/keys", rest_schema.Keys).items

    def revoke_key(self, key: str) -> rest_schema.Key:
        return self._read(rest_schema.Key, self._request("DELETE", f"/v1/keys/{key}"))

    def _items(self, url: str, kind: type[M], **params: Any) -> Iterator[M]:
        cursor: str | None = None
        while True:
            page = self._get(url, rest_schema.Page[kind], limit=_PAGE, cursor=cursor, **params)  # type: ignore[valid-type]
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def _get(self, url: str, kind: type[M], **params: Any) -> M:
        given = {name: value for name, value in params.items() if value is not None}
        return self._read(kind, self._request("GET", url, params=given, attempts=self._attempts))

    def _post(self, url: str, kind: type[M], body: Mapping[str, Any] | None, idempotency_key: str | None = None) -> M:
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        # With an idempotency key, two requests make one job.
        attempts = self._attempts if idempotency_key else 1
        return self._read(kind, self._request("POST", url, json=body, headers=headers, attempts=attempts))

    def _read(self, kind: type[M], reply: httpx2.Response) -> M:
        try:
            return kind.model_validate_json(reply.content)
        except ValidationError:
            raise ServiceError(reply.status_code, _not_ours(reply)) from None

    def _request(self, method: str, url: str, attempts: int = 1, **rest: Any) -> httpx2.Response:
        for attempt in range(attempts):
            try:
                reply = self._http.request(method, url, **rest)
            except httpx2.TransportError as error:
                if attempt == attempts - 1:
                    raise self._unreachable(error) from error
            else:
                if reply.is_success:
                    return reply
                if reply.status_code not in (429, 503) or attempt == attempts - 1:
                    raise self._error(reply)
                time.sleep(min(5.0, float(reply.headers.get("retry-after", "1"))))
                continue
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, error: Exception) -> StorageError:
        if isinstance(error, StorageError):
            return error
        return StorageError(
            f"the service at {_shown(self._http.base_url)} cannot be reached ({type(error).__name__}); is it running? `labeler up` "
            "starts it and says where it is; --url or LABELER_URL names another address"
        )

    def _error(self, reply: httpx2.Response) -> LabelerError:
        """Make the error, in the service's own words and with its address."""
        try:
            problem = reply.json()
            detail, is_ours = str(problem["detail"]), str(problem["type"]).startswith("urn:labeler:")
        except (ValueError, KeyError, TypeError):
            detail, is_ours = "", False
        if not is_ours or (reply.status_code == 404 and detail == "Not Found"):
            return ServiceError(reply.status_code, _not_ours(reply))
        asked = f"asked of {_shown(self._http.base_url)}"
        if reply.status_code == 401:
            key = "LABELER_KEY holds no key of that service" if self._has_key else "set LABELER_KEY to one of its keys"
            asked += f"; {key}, which `labeler keys create NAME --data DIR` makes where it runs"
        kind = _ERRORS.get(reply.status_code)
        return kind(f"{detail} ({asked})") if kind else ServiceError(reply.status_code, f"{detail} ({asked})")


@dataclass
class _Download:
    """A file that is being downloaded, as far as it has come."""

    http: httpx2.Client
    url: str
    params: Mapping[str, Any]
    file: BinaryIO
    error: Callable[[httpx2.Response], LabelerError]
    tag: str | None = None  # the version of the bytes in the file

    def go_on(self) -> None:
        """Write the missing bytes of this version, or the whole file if the service has a newer version."""
        # Sent without compression, which would cost the service more than the network saves.
        headers = {"Accept-Encoding": "identity"}
        if self.tag is not None and self.file.tell():
            headers |= {"Range": f"bytes={self.file.tell()}-", "If-Range": self.tag}
        with self.http.stream("GET", self.url, params=self.params, headers=headers) as reply:
            if reply.is_error:
                reply.read()
                raise self.error(reply)
            if reply.status_code != 206:
                self.file.seek(0)
                self.file.truncate()
            self.tag = reply.headers.get("etag")
            for piece in reply.iter_bytes():
                self.file.write(piece)


def _not_ours(reply: httpx2.Response) -> str:
    return (
        f"{_shown(reply.request.url)} answered {reply.status_code}, and not as this version's service does: something else "
        "may run at that address, or an older version; --url or LABELER_URL names another one"
    )


def _shown(url: httpx2.URL) -> str:
    """Return the address without a password and without a query."""
    return str(url.copy_with(userinfo=b"", query=None)).rstrip("/")


def _id(what: str, reference: int | str) -> int | str:
    """Read an id or a hash. Raises InputError for a path, which the service does not know."""
    if "/" in str(reference):
        raise InputError(f"{what} {reference!r}: this is a path; the service knows it by an id or a hash")
    return reference
