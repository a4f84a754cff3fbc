"""Read one table of a TOML file with the types of a configuration; errors name the key in full."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from labeler.errors import InputError

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}


class Table:
    def __init__(self, raw: Any, where: str = "") -> None:
        if not isinstance(raw, dict):
            raise InputError(f"{where} is {raw!r}: expected a table; write [{where}] above its keys")
        self.raw: Mapping[str, Any] = raw
        self.where = where

    def __contains__(self, key: str) -> bool:
        return key in self.raw

    def path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def replaced(self, raw: Mapping[str, Any]) -> Table:
        return Table(dict(raw), self.where)

    def only(self, *known: str) -> None:
        """Raise InputError for a key that is none of `known`."""
        for key in self.raw:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                meant = f"did you mean {near[0]}? " if near else ""
                shown = ", ".join(k for k in known if k != "split")
                raise InputError(f"{self.path(key)} is no key of a recipe: {meant}known here are {shown}")

    def table(self, key: str) -> Table:
        return Table(self.raw.get(key, {}), self.path(key))

    def tables(self, key: str) -> list[Table]:
        listed = self.raw.get(key, [])
        if not isinstance(listed, list):
            raise InputError(f"{self.path(key)} is {listed!r}: expected a list of tables; write [[{key}]] above each")
        return [Table(values, f"{self.path(key)}[{i}]") for i, values in enumerate(listed)]

    def text(self, key: str) -> str | None:
        value = self.raw.get(key)
        return None if value is None else _checked(value, str, self.path(key))

    def one_of(self, key: str, known: Iterable[str], default: str) -> str:
        value = self.text(key) or default
        if value not in known:
            raise InputError(f"{self.path(key)} is {value!r}: known are {', '.join(known)}")
        return value

    def values(self, config: type, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of `keys` that are there, in the types that the fields of `config` have."""
        hints = get_type_hints(config)
        return {key: _checked(self.raw[key], hints[key], self.path(key)) for key in keys if key in self.raw}

    def build(self, config: type[T], keys: Iterable[str], **given: Any) -> T:
        return config(**given, **self.values(config, keys))

    def refuse_split(self, only: str, why: str) -> None:
        """Refuse a split other than the only right one: a file may state it, but not change it."""
        if (split := self.text("split")) not in (None, only):
            raise InputError(f"{self.path('split')} is {split!r}: {why}; it can only be {only!r}, so leave it out")


def _checked(value: Any, kind: Any, where: str) -> Any:
    if get_origin(kind) is tuple:
        members = get_args(kind)
        if not isinstance(value, list) or len(value) != len(members):
            raise InputError(f"{where} is {value!r}: expected a list of {len(members)}, such as [10, 10]")
        return tuple(_checked(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, members, strict=True)))
    allowed = [k for k in get_args(kind) if k is not types.NoneType] if get_args(kind) else [kind]
    for one in allowed:
        if isinstance(value, bool) == (one is bool) and isinstance(value, (int, float) if one is float else one):
            return float(value) if one is float else value
    raise InputError(f"{where} is {value!r}: expected {' or '.join(_WORDS[k] for k in allowed)}")
