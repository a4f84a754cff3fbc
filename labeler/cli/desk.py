"""Where jobs are asked for: the database itself, or a running service. The commands see no difference."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from labeler.errors import FormatError

if TYPE_CHECKING:
    from labeler.client import Client
    from labeler.store import Store
    from labeler.store.progress import Failure, JobProgress
    from labeler.store.states import JobInfo
    from labeler.wire import Failure as SentFailure
    from labeler.wire import Job, Progress

_HASH = re.compile("[0-9a-f]{16}")

Found = tuple["JobInfo | Job", "JobProgress | Progress"]


class Desk(Protocol):
    """Jobs with their progress, asked for and changed."""

    def submit(self, evidence: str, features: str, recipe: str | None, **asked: Any) -> Found: ...

    def gather(self, **asked: Any) -> Found: ...

    def newest(self, limit: int) -> list[Found]: ...

    def job(self, job: int) -> Found: ...

    def failures(self, job: int, limit: int) -> list[Failure] | list[SentFailure]: ...

    def change(self, job: int, word: str) -> Found:
        """`word` is pause, resume, cancel or retry."""
        ...


@contextmanager
def desk_at(db: str | None, url: str | None, evidence: str | None = None) -> Iterator[Desk]:
    """The service where a URL is given, else the database; `evidence` is the folder that its jobs are about.

    A database that is named is made where it is missing, for workers that are to come; one that nobody named is not.
    """
    if url is not None:
        from labeler.client import Client

        with Client(url) as client:
            yield Service(client)
        return
    from labeler.cli.where import existing_database, new_database
    from labeler.store import open_store

    folder = None if evidence is None else Path(evidence)
    is_named = bool(db or os.environ.get("LABELER_DB"))
    hint = "Jobs are for a service: `labeler up` starts one, and --url http://127.0.0.1:8000 asks it"
    makes_it = is_named and evidence is not None
    store = open_store(new_database(db) if makes_it else existing_database(db, folder, hint=hint))
    try:
        yield Here(store)
    finally:
        store.close()


class Here:
    """The database."""

    def __init__(self, store: Store) -> None:
        from labeler.store.jobs import Jobs

        self.store, self._jobs = store, Jobs(store)

    def submit(self, evidence: str, features: str, recipe: str | None, **asked: Any) -> Found:
        from labeler.cli.options import recipe_of
        from labeler.evidence.store import EvidenceFolder
        from labeler.selection import parse_features

        folder = EvidenceFolder(evidence)
        if features.startswith("@"):
            features = ",".join(map(str, parse_features(features, folder.n_features)))
        evidence_id = self.store.add_evidence(folder.manifest, str(Path(evidence).resolve()))
        made = recipe_of(asked.pop("explainer"), asked.pop("simulator"), recipe)
        return self.job(self._jobs.submit(evidence_id, made, features, **asked).id)

    def gather(self, **asked: Any) -> Found:
        from labeler.recipe import GatherConfig
        from labeler.store.states import GatherRequest

        config = GatherConfig(**{name: asked.pop(name) for name in ("n_tokens", "sequence_tokens", "seed", "dtype")})
        queued = {name: asked.pop(name) for name in ("priority", "idempotency_key")}
        asked["out"] = str(Path(asked["out"]).resolve())
        return self.job(self._jobs.submit_gather(GatherRequest(**asked, config=config), **queued).id)

    def newest(self, limit: int) -> list[Found]:
        return [self.job(info.id) for info in self._jobs.page(limit=limit)]

    def job(self, job: int) -> Found:
        from labeler.store.progress import progress_of

        return self._jobs.get(job), progress_of(self.store, job)

    def failures(self, job: int, limit: int) -> list[Failure]:
        from labeler.store.progress import failures_of

        return failures_of(self.store, job, limit=limit)

    def change(self, job: int, word: str) -> Found:
        if word in ("pause", "cancel"):
            getattr(self._jobs, word)(job, {"pause": "paused by hand", "cancel": "cancelled by hand"}[word])
        else:
            getattr(self._jobs, word)(job)
        return self.job(job)


class Service:
    """A running service. Its evidence has ids and hashes, or is a folder in the service's data folder."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def submit(self, evidence: str, features: str, recipe: str | None, **asked: Any) -> Found:
        from labeler.selection import read_features

        if features.startswith("@"):
            features = ",".join(map(str, read_features(Path(features[1:]))))
        budget = {"usd": asked.pop("budget_usd"), "tokens": asked.pop("budget_tokens")}
        if recipe is not None:
            asked["recipe"] = _recipe(recipe)
        given = {name: value for name, value in asked.items() if value is not None}
        known = evidence.isdecimal() or _HASH.fullmatch(evidence)
        evidence_id = (self._client.evidence_detail if known else self._client.add_evidence)(evidence).id
        return self.job(self._client.submit(evidence_id, features, budget=budget, **given).id)

    def gather(self, **asked: Any) -> Found:
        given = {name: value for name, value in asked.items() if value is not None}
        return self.job(self._client.submit_gather(**given).id)

    def newest(self, limit: int) -> list[Found]:
        return [self.job(job.id) for job in islice(self._client.jobs(), limit)]

    def job(self, job: int) -> Found:
        detail = self._client.job(job)
        return detail, detail.progress

    def failures(self, job: int, limit: int) -> list[SentFailure]:
        return list(islice(self._client.failures(job), limit))

    def change(self, job: int, word: str) -> Found:
        detail = self._client.change_job(job, word)
        return detail, detail.progress


def _recipe(source: str) -> str | dict[str, Any]:
    """A recipe's name as it is; a file as what it says."""
    if not Path(source).is_file():
        return source
    try:
        return tomllib.loads(Path(source).read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"recipe {source}: not TOML: {error}") from None
