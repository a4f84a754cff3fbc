"""Counts such as 5M and paths such as ~/texts: from the form that people type to values for commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.core import TyperCommand

from labeler.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_COUNT = re.compile(r"(\d{1,3}(?:[,_]\d{3})+|\d+)(\.\d+)?(e\+?\d{1,2})?([kmgb]?)", re.ASCII | re.IGNORECASE)
_COUNT_EXAMPLES = "20000, 20,000, 20k, 5M or 1e6"
# A number of megabytes is no count: 512M would mean 512 million megabytes.
_NO_COUNTS = {"memory"}
# Parameters that may be a path or something else.
_MAYBE_PATHS = {"subject", "sae", "corpus", "recipe", "db", "a", "b", "evidence", "out", "where"}


# What stands for a value in the help; typer's own words are those of a programmer, such as <int range>.
_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class TypedCommand(TyperCommand):
    """A command whose whole numbers may be written as 5M, and whose paths may begin with `~`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        kinds = self._kinds()
        for parameter in self.params:
            kind = kinds.get(parameter.name or "")
            for meant, metavar in _METAVARS.items():
                if parameter.metavar is None and meant in (kind, *get_args(kind)):
                    parameter.metavar = metavar
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_plain_counts(args, self._count_options()))

    def invoke(self, ctx: Any) -> Any:
        for name, value in ctx.params.items():
            ctx.params[name] = with_home(name, value)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            from labeler.cli.app import Stopped

            raise Stopped("nothing is kept that was not there before; the same command begins again") from None

    def _count_options(self) -> set[str]:
        counts = {
            name for name, kind in self._kinds().items() if int in (kind, *get_args(kind)) and name not in _NO_COUNTS
        }
        return {option for parameter in self.params if parameter.name in counts for option in parameter.opts}

    def _kinds(self) -> dict[str, Any]:
        """Return the type of each parameter, by its name."""
        return {} if self.callback is None else get_type_hints(_plain(self.callback))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function as it was written, without typer's wrappers."""
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        function = inner
    return function


def with_plain_counts(words: Sequence[str], options: set[str]) -> list[str]:
    """Return the words with the values of these options in digits. Raises InputError for one that is no count."""
    plain: list[str] = []
    for i, word in enumerate(words):
        if word == "--":
            return [*plain, *words[i:]]
        name, equals, value = word.partition("=")
        if equals and name in options:
            plain.append(f"{name}={_digits(name, value)}")
        elif plain and words[i - 1] in options:
            plain.append(_digits(words[i - 1], word))
        else:
            plain.append(word)
    return plain


def _digits(option: str, text: str) -> str:
    if re.fullmatch(r"\s*[+-]\d+\s*", text, re.ASCII):
        return text  # the option's own limits say what is wrong with a negative one
    return str(parse_count(option, text))


def parse_count(option: str, text: str) -> int:
    """Read a whole number written as 20000, 20,000, 20k, 5M or 1e6. Raises InputError."""
    match = _COUNT.fullmatch(text.strip())
    wrong = InputError(f"{option} {text!r}: expected a whole number, such as {_COUNT_EXAMPLES}")
    if match is None:
        raise wrong
    whole, fraction, exponent, unit = match.groups(default="")
    if fraction and not (exponent or unit):
        raise wrong  # 20.000 may be twenty or twenty thousand
    decimals = len(fraction) - 1 if fraction else 0
    digits = int(re.sub("[,_]", "", whole) + fraction[1:])
    value, rest = divmod(digits * _UNITS[unit.lower()] * 10 ** int(exponent[1:] or 0), 10**decimals)
    if rest:
        raise wrong
    return int(value)


def with_home(name: str, value: Any) -> Any:
    """Replace `~` by the home folder in a value that is a path."""
    if isinstance(value, list | tuple):
        return type(value)(with_home(name, one) for one in value)
    if isinstance(value, Path):
        return _expanded(str(value), Path)
    if isinstance(value, str) and name in _MAYBE_PATHS:
        return _expanded(value, str)
    if isinstance(value, str) and name == "features" and value.startswith("@"):
        return "@" + _expanded(value[1:], str)
    return value


def _expanded(text: str, kind: Callable[[str], Any]) -> Any:
    if not text.startswith("~"):
        return kind(text)
    try:
        return kind(str(Path(text).expanduser()))
    except RuntimeError as error:  # no such user
        raise InputError(f"{text}: {error}; write the full path") from None
