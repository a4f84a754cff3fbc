"""Select the features of a command: `all`, `0-999`, `1,5,9`, `@file`, `unlabeled`; jobs also select by condition.

density>1e-5                   what the evidence says
unlabeled, state=failed        what the label set at hand says
score<0.2                      what an earlier label set of the same evidence says
0-9999 and density>1e-5        all of these at once
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from labeler.errors import InputError, NotFoundError
from labeler.records import State

_EXPECTED = "`all`, `unlabeled`, a range such as `0-999`, a list such as `1,5,9`, or `@FILE` with one index a line"
_DIGITS = 10  # of an index
_CONDITION = re.compile(r"\s*(density|score|state)\s*(<=|>=|<|>|=)\s*(\S+)\s*", re.ASCII)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


class Known(Protocol):
    """The facts about features that conditions can ask for."""

    def densities(self) -> np.ndarray:
        """[n_features] share of tokens on which each fires."""

    def finished(self) -> np.ndarray:
        """The features that need no work."""

    def in_state(self, state: State) -> np.ndarray:
        """The features in this state; those that are pending have none stored."""

    def scored(self, compare: Callable[[Any, Any], Any], value: float) -> np.ndarray:
        """The features whose score compares so; one without a score never does."""


def select_features(spec: str, n_features: int, known: Known) -> Sequence[int]:
    """The feature indices that `spec` names, ascending; conditions are joined by `and`.

    Raises InputError naming the part that cannot be read or is out of range.
    """
    parts = [part.strip() for part in re.split(r"\sand\s", spec)]
    if len(parts) == 1 and parts[0] != "unlabeled" and not _CONDITION.fullmatch(spec):
        return parse_features(spec, n_features)
    chosen = np.ones(n_features, dtype=bool)
    for part in parts:
        chosen &= _holds(part, n_features, known)
    found: list[int] = np.flatnonzero(chosen).tolist()
    return found


def _holds(part: str, n_features: int, known: Known) -> np.ndarray:
    """[n_features] where one part of a selection holds."""
    if part == "unlabeled":
        return ~_mask(known.finished(), n_features)
    condition = _CONDITION.fullmatch(part)
    if condition is None:
        return _mask(parse_features(part, n_features), n_features)
    name, sign, text = condition.groups()
    if name == "state":
        return _in_state(sign, text, n_features, known)
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"features {part!r}: {text!r} is not a number") from None
    if name == "density":
        return np.asarray(_COMPARE[sign](known.densities(), value))
    return _mask(known.scored(_COMPARE[sign], value), n_features)


def _in_state(sign: str, text: str, n_features: int, known: Known) -> np.ndarray:
    if sign != "=" or text not in set(State):
        raise InputError(f"features 'state{sign}{text}': expected state= and one of {', '.join(State)}")
    if text == State.PENDING:
        stored = [known.in_state(state) for state in State if state is not State.PENDING]
        return ~_mask(np.concatenate(stored), n_features)
    return _mask(known.in_state(State(text)), n_features)


def _mask(features: Sequence[int] | np.ndarray, n_features: int) -> np.ndarray:
    mask = np.zeros(n_features, dtype=bool)
    mask[np.asarray(features, dtype=np.int64)] = True
    return mask


def parse_features(spec: str, n_features: int) -> Sequence[int]:
    """The feature indices that `spec` names, ascending; a `range` where it is one, so that millions cost nothing.

    `unlabeled` selects like `all`: what a label set has already is never done again.
    Raises InputError naming the part that cannot be read or is out of range.
    """
    if spec in ("all", "unlabeled"):
        return range(n_features)
    if spec.startswith("@"):
        return _sorted(read_features(Path(spec[1:])), n_features)
    parts = [part.strip() for part in spec.split(",")]
    if len(parts) == 1:
        return _check(_range(parts[0]), n_features)
    ranges = [_range(part) for part in parts]
    for indices in ranges:
        _check(indices, n_features)
    return _union(ranges)


def _union(ranges: Sequence[range]) -> list[int]:
    """Ascending, each index once: what overlaps is never written out twice, however often it is repeated."""
    found: list[int] = []
    for indices in sorted(ranges, key=lambda r: r.start):
        found += range(max(indices.start, found[-1] + 1 if found else 0), indices.stop)
    return found


def _range(part: str) -> range:
    low, dash, high = part.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise InputError(f"features {_cut(part)!r}: expected {_EXPECTED}")
    if max(len(low), len(high)) > _DIGITS:
        raise InputError(f"features {_cut(part)!r}: a feature index has at most {_DIGITS} digits")
    first, last = int(low), int(high) if dash else int(low)
    if last < first:
        raise InputError(f"features {part!r}: the range runs backwards; write {last}-{first}")
    return range(first, last + 1)


def read_features(path: Path) -> list[int]:
    """The feature indices in a file, as they stand there. Raises NotFoundError, or InputError that names the file."""
    try:
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
    except OSError as error:
        raise NotFoundError(f"features @{path}: cannot read this file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"features @{path}: not UTF-8 ({error.reason}); expected one feature index a line") from error
    bad = next((w for w in words if not w.isdecimal() or len(w) > _DIGITS), None)
    if bad is not None:
        raise InputError(f"features @{path}: {_cut(bad)!r} is not a feature index")
    if not words:
        raise InputError(f"features @{path}: the file names no feature")
    return [int(w) for w in words]


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _sorted(indices: list[int], n_features: int) -> list[int]:
    unique = sorted(set(indices))
    _check(unique, n_features)
    return unique


def _check(indices: Sequence[int], n_features: int) -> Sequence[int]:
    if indices and indices[-1] >= n_features:
        raise InputError(f"feature {indices[-1]} is out of range: this SAE has features 0 to {n_features - 1}")
    return indices
