"""The limits on requests and tokens per minute, for each model.

LABELER_RPM, LABELER_TPM    for every model
LABELER_LIMITS              a TOML file, for models by name:

    [models."gpt-5-mini"]
    requests_per_minute = 500
    tokens_per_minute = 200_000
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, InputError, NotFoundError


@dataclass(frozen=True)
class Rate:
    """The limits of one model. None: no limit of ours; the endpoint's own 429 is obeyed all the same."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Rates:
    by_default: Rate = Rate()
    by_model: Mapping[str, Rate] = field(default_factory=dict)

    def of(self, model: str) -> Rate:
        return self.by_model.get(model, self.by_default)

    @classmethod
    def load(cls, requests: str | None, tokens: str | None, path: Path | None) -> Rates:
        """Read the limits from the environment's values. Raises InputError, NotFoundError or FormatError that name the
        variable.
        """
        by_default = Rate(_per_minute("LABELER_RPM", requests), _per_minute("LABELER_TPM", tokens))
        if path is None:
            return cls(by_default)
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise NotFoundError(f"limits {path} cannot be read ({error.strerror}): correct LABELER_LIMITS") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"limits {path} is not TOML: {error}") from None
        if set(table) - {"models"} or not isinstance(models := table.get("models", {}), dict):
            raise FormatError(f'limits {path}: expected tables [models."NAME"] and nothing beside them')
        return cls(by_default, {model: _rate(model, values, path) for model, values in models.items()})


def _rate(model: str, values: Any, path: Path) -> Rate:
    known = Rate.__dataclass_fields__
    if not isinstance(values, dict) or (unknown := sorted(set(values) - set(known))):
        what = f"{unknown[0]} is not a known key" if isinstance(values, dict) else f"{values!r} is not a table"
        raise FormatError(f"limits {path}: models.{model!r}: {what}; known are {', '.join(known)}")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise FormatError(f"limits {path}: models.{model!r}.{key} is {value!r}; expected a whole number above 0")
    return Rate(**values)


def _per_minute(name: str, value: str | None) -> int | None:
    if value is None:
        return None
    if not value.strip().isdecimal() or int(value) < 1:
        raise InputError(f"{name} is {value!r}; expected a whole number above 0")
    return int(value)
