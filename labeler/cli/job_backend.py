"""Job backends: the database itself, or a running service. The commands see no difference."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from labeler.cli.where import NAME, existing_database, is_served, near, new_database, shown
from labeler.errors import InputError

if TYPE_CHECKING:
    from labeler.client import Client
    from labeler.rest_schema import Failure as SentFailure
    from labeler.rest_schema import Job, Progress
    from labeler.store import Store
    from labeler.store.jobs.progress import Failure, JobProgress
    from labeler.store.jobs.states import JobInfo

_HASH = re.compile("[0-9a-f]{16}")

Found = tuple["JobInfo | Job", "JobProgress | Progress"]


class JobBackend(Protocol):
    """A backend that submits, reads and changes jobs, and reports their progress."""

    def submit(self, evidence: str, features: str, recipe: str | None, **asked: Any) -> Found: ...

    def gather(self, **asked: Any) -> Found: ...

    def newest(self, limit: int) -> list[Found]: ...

    def job(self, job: int) -> Found: ...

    def failures(self, job: int, limit: int) -> list[Failure] | list[SentFailure]: ...

    def change(self, job: int, word: str) -> Found:
        """`word` is pause, resume, cancel or retry."""
        ...


@contextmanager
def job_backend(db: str | None, url: str | None, evidence: str | None = None) -> Iterator[JobBackend]:
    """Open the service where a URL is given, else the database; `evidence` is the folder to be labeled.

    A missing database is created only where --db or LABELER_DB names it: workers may start later.
    """
    if url is not None:
        from labeler.client import Client

        with Client(url) as client:
            yield RemoteJobs(client, url)
        return
    from labeler.store import open_store

    folder = None if evidence is None else Path(evidence)
    is_named = bool(db or os.environ.get("LABELER_DB"))
    hint = "Jobs are for a service: `labeler up` starts one, and --url http://127.0.0.1:8000 asks it"
    makes_it = is_named and evidence is not None
    store = open_store(new_database(db) if makes_it else existing_database(db, folder, hint=hint))
    try:
        yield LocalJobs(store)
    finally:
        store.close()


class LocalJobs:
    """Jobs in the database, without a service."""

    def __init__(self, store: Store) -> None:
        from labeler.store.jobs.jobs import Jobs

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
        from labeler.store.jobs.states import GatherRequest

        config = GatherConfig(**{name: asked.pop(name) for name in ("n_tokens", "sequence_tokens", "seed", "dtype")})
        queued = {name: asked.pop(name) for name in ("priority", "idempotency_key")}
        asked["out"] = str(Path(asked["out"]).resolve())
        return self.job(self._jobs.submit_gather(GatherRequest(**asked, config=config), **queued).id)

    def newest(self, limit: int) -> list[Found]:
        return [self.job(info.id) for info in self._jobs.page(limit=limit)]

    def job(self, job: int) -> Found:
        from labeler.store.jobs.progress import progress_of

        return self._jobs.get(job), progress_of(self.store, job)

    def failures(self, job: int, limit: int) -> list[Failure]:
        from labeler.store.jobs.progress import failures_of

        return failures_of(self.store, job, limit=limit)

    def change(self, job: int, word: str) -> Found:
        if word in ("pause", "cancel"):
            getattr(self._jobs, word)(job, {"pause": "paused by hand", "cancel": "cancelled by hand"}[word])
        else:
            getattr(self._jobs, word)(job)
        return self.job(job)


class RemoteJobs:
    """Jobs of a running service. It knows evidence by id or hash, or as a folder in its data folder."""

    def __init__(self, client: Client, url: str) -> None:
        self._client, self._url = client, url

    def submit(self, evidence: str, features: str, recipe: str | None, **asked: Any) -> Found:
        from labeler.selection import read_features

        if features.startswith("@"):
            features = ",".join(map(str, read_features(Path(features[1:]))))
        budget = {"usd": asked.pop("budget_usd"), "tokens": asked.pop("budget_tokens")}
        if recipe is not None:
            asked["recipe"] = _recipe(recipe)
        given = {name: value for name, value in asked.items() if value is not None}
        known = evidence.isdecimal() or _HASH.fullmatch(evidence)
        if known:
            evidence_id = self._client.evidence_detail(evidence).id
        else:
            with self._explained_paths():
                evidence_id = self._client.add_evidence(self._as_it_sees(evidence)).id
        return self.job(self._client.submit(evidence_id, features, budget=budget, **given).id)

    def gather(self, **asked: Any) -> Found:
        given = {name: value for name, value in asked.items() if value is not None}
        given |= {name: self._as_it_sees(given[name]) for name in ("subject", "sae", "corpus", "out")}
        with self._explained_paths():
            return self.job(self._client.submit_gather(**given).id)

    def _as_it_sees(self, path: str) -> str:
        """Make a path into the data folder of a service on this machine relative to that folder.

        Every other text is returned as it is.
        """
        for folder in self._data_folders():
            full = Path(path).expanduser().absolute()
            if full.is_relative_to(folder.absolute()) and full != folder.absolute():
                return str(full.relative_to(folder.absolute()))
        return path

    @contextmanager
    def _explained_paths(self) -> Iterator[None]:
        """Turn the service's refusal of a path into a message that says where its paths lie and what to do."""
        try:
            yield
        except InputError as error:
            if "data folder" not in str(error):
                raise
            here = [f"{shown(folder)}, on which `labeler up` runs here" for folder in self._data_folders()]
            raise InputError(
                f"{error}. The data folder is the one given to `labeler up --data`{': ' if here else ''}{', or '.join(here)}. "
                "Copy the input into it and name every path, --out too, relative to that folder; or run `labeler gather` "
                "yourself, which takes any path"
            ) from None

    def _data_folders(self) -> list[Path]:
        """List the data folders of services that run on this machine, near the current folder."""
        if urlsplit(self._url).hostname not in ("127.0.0.1", "localhost", "::1"):
            return []
        return [path.parent for path in near() if path.name == NAME and is_served(path.parent)]

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
    """Return a recipe's name as it is, or the content of a recipe file."""
    if not Path(source).is_file():
        return source
    from labeler.recipes import recipe_values

    return recipe_values(Path(source))
