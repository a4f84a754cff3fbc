"""Prices of tokens. An unknown price is None, never 0."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from labeler.errors import FormatError, NotFoundError

_MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """The price of a model, in USD per million tokens."""

    input: float
    output: float


@dataclass(frozen=True)
class Prices:
    """Prices by model name, exactly as requests name the model."""

    by_model: Mapping[str, Price] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None = None) -> Prices:
        """Read the table at `path`, or the one that comes with the package. Raises FormatError naming the wrong key."""
        if path is None:
            return cls.parse(resources.files("labeler.llm").joinpath("prices.toml").read_text("utf-8"), "prices.toml")
        try:
            return cls.parse(path.read_text("utf-8"), str(path))
        except OSError as error:
            why = f"{error.strerror}: correct LABELER_PRICES"
            raise NotFoundError(f"price table {path} cannot be read ({why})") from None
        except UnicodeDecodeError:
            raise FormatError(f"price table {path} is not UTF-8 text") from None

    @classmethod
    def parse(cls, text: str, name: str) -> Prices:
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise FormatError(f"price table {name} is not TOML: {error}") from None
        _refuse_unknown(table, {"date", "models"}, name, "")
        models = table.get("models", {})
        if not isinstance(models, dict):
            raise FormatError(f'price table {name}: models is not a table; write [models."NAME"] before each price')
        return cls({model: _price(model, values, name) for model, values in models.items()})

    def cost(self, model: str, tokens_in: int, tokens_out: int) -> float | None:
        """Return the cost of so many tokens in USD; None where the model has no price here."""
        if (price := self.by_model.get(model)) is None:
            return None
        return (tokens_in * price.input + tokens_out * price.output) / _MILLION


def _price(model: str, values: Any, name: str) -> Price:
    where = f"models.{model!r}"
    if not isinstance(values, dict):
        raise FormatError(f"price table {name}: {where} is {values!r}; expected a table with input and output")
    _refuse_unknown(values, {"input", "output"}, name, f"{where}.")
    return Price(*(_amount(values, key, where, name) for key in ("input", "output")))


def _amount(values: Mapping[str, Any], key: str, where: str, name: str) -> float:
    amount = values.get(key)
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not math.isfinite(amount) or amount < 0:
        given = repr(amount) if key in values else "missing"
        raise FormatError(f"price table {name}: {where}.{key} is {given}; expected USD per million tokens, 0 or more")
    return float(amount)


def _refuse_unknown(table: Mapping[str, Any], known: set[str], name: str, where: str) -> None:
    for key in table:
        if key not in known:
            raise FormatError(
                f"price table {name}: {where}{key} is not a known key; known are {', '.join(sorted(known))}"
            )
