"""The environment, read once at the entry points and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from labeler.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Settings from the environment. Only the client that needs the key gets it from this object."""

    database: str = "labeler.db"  # LABELER_DB: a file for SQLite, or postgresql+psycopg://...
    base_url: str | None = None  # OPENAI_BASE_URL: any OpenAI-compatible endpoint
    api_key: str | None = field(default=None, repr=False)  # OPENAI_API_KEY
    prices: Path | None = None  # LABELER_PRICES: a price table instead of the one that comes with the package
    requests_per_minute: str | None = None  # LABELER_RPM: of any model, where the endpoint sets a limit
    tokens_per_minute: str | None = None  # LABELER_TPM
    limits: Path | None = None  # LABELER_LIMITS: a table with limits for models by name (labeler/llm/rates.py)
    redis: str | None = field(
        default=None, repr=False
    )  # LABELER_REDIS: redis://..., the queue, and what limits are shared through
    concurrency: int = 64  # LABELER_CONCURRENCY: LLM requests in flight in each worker process
    lease_seconds: float = 30.0  # LABELER_LEASE_SECONDS: a worker that is silent for so long has lost its block

    embeddings_model: str | None = None  # LABELER_EMBEDDINGS_MODEL: what search by meaning places labels with
    embeddings_url: str | None = None  # LABELER_EMBEDDINGS_URL: where that model answers, if not at OPENAI_BASE_URL

    data: Path = Path("labeler-data")  # LABELER_DATA: paths in requests to the service stay below it
    hosts: tuple[str, ...] = ()  # LABELER_HOSTS: names the service answers to, beside those of this machine, by comma

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        def path(name: str) -> Path | None:
            return Path(value) if (value := environment.get(name)) else None

        def number(name: str, default: float, least: float) -> float:
            text = environment.get(name) or str(default)
            try:
                value = float(text)
            except ValueError:
                value = float("nan")
            if not least <= value < float("inf"):
                raise InputError(f"{name} is {text!r}; expected a number of at least {least:g}")
            return value

        return cls(
            database=environment.get("LABELER_DB") or cls.database,
            base_url=environment.get("OPENAI_BASE_URL") or None,
            api_key=environment.get("OPENAI_API_KEY") or None,
            prices=path("LABELER_PRICES"),
            requests_per_minute=environment.get("LABELER_RPM") or None,
            tokens_per_minute=environment.get("LABELER_TPM") or None,
            limits=path("LABELER_LIMITS"),
            redis=environment.get("LABELER_REDIS") or None,
            concurrency=int(number("LABELER_CONCURRENCY", cls.concurrency, 1)),
            embeddings_model=environment.get("LABELER_EMBEDDINGS_MODEL") or None,
            embeddings_url=environment.get("LABELER_EMBEDDINGS_URL") or None,
            data=path("LABELER_DATA") or cls.data,
            hosts=tuple(name.strip() for name in environment.get("LABELER_HOSTS", "").split(",") if name.strip()),
            lease_seconds=number("LABELER_LEASE_SECONDS", cls.lease_seconds, 0.5),
        )
