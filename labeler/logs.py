"""Write logs as JSON, one object per line, with the request, or the job and block, that they belong to.

Headers, queries, bodies and keys are in no log.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="-")
_place: ContextVar[Mapping[str, Any]] = ContextVar("place", default=MappingProxyType({}))

# `data` is Celery's: the task's arguments, which its message need not repeat.
_KNOWN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message", "data"}


@contextmanager
def logged_as(**place: Any) -> Iterator[None]:
    """Add these values, such as `job` and `block`, to every line that is logged within the block."""
    token = _place.set({**_place.get(), **place})
    try:
        yield
    finally:
        _place.reset(token)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            **_place.get(),
            **{name: value for name, value in record.__dict__.items() if name not in _KNOWN},
        }
        if entry["request_id"] == "-":
            del entry["request_id"]
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def log_as_json(level: int = logging.INFO) -> None:
    """Set up logging as JSON; each process calls this once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
