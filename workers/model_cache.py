"""The subject and the SAE in a gather worker's memory: the last one of each, since either may fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from labeler.sae import SAE
    from labeler.subject.model import Subject

_kept: dict[str, tuple[object, Any]] = {}


T = TypeVar("T")


def subject(name: str, revision: str | None, dtype: str) -> Subject:
    from labeler.subject.model import load_subject

    return _the("subject", (name, revision, dtype), lambda: load_subject(name, revision=revision, dtype=dtype))


def sae(subject: Subject, name: str, hookpoint: str | None, dtype: str) -> SAE:
    from labeler.evidence.target import open_sae

    key = (subject.id, subject.revision, name, hookpoint, dtype)
    return _the("sae", key, lambda: open_sae(subject, name, hookpoint, dtype))


def _the(what: str, key: object, make: Callable[[], T]) -> T:
    if what not in _kept or _kept[what][0] != key:
        _kept.pop(what, None)  # frees the memory before the next one is loaded
        _kept[what] = (key, make())
    kept: T = _kept[what][1]
    return kept


def forget() -> None:
    """Drop what was loaded: the files on disk may have changed."""
    _kept.clear()
