"""Answers to texts that people ask about, from the gather worker, which has the subject and the SAE in memory.

The worker reads them before the next step of a gathering pass. Texts about the subject that it has loaded are read even
between two batches of a step: a step lasts for hours, and a person waits for seconds.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labeler.errors import LabelerError, MismatchError
from labeler.store.jobs.activations import MOST_TOKENS, ActivationRequest, Activations
from workers import model_cache
from workers.resources import Resources

if TYPE_CHECKING:
    from labeler.evidence.target import Target
    from labeler.subject.model import Subject

_LOOK = 1.0  # seconds between two looks from within a pass

log = logging.getLogger(__name__)


def answer_all(here: Resources) -> None:
    """Answer every waiting text, the oldest first."""
    waiting = Activations(here.store)
    while (request := waiting.claim()) is not None:
        _answer(request, here, None)


class Between:
    """Answers one text about this subject between two batches, so that the pass advances as well."""

    def __init__(self, here: Resources, subject: Subject, dtype: str) -> None:
        self._here, self._subject = here, subject
        self._key = (subject.id, subject.revision, dtype)
        self._next = 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK
        if (request := Activations(self._here.store).claim(self._key)) is not None:
            _answer(request, self._here, self._subject)


def _answer(request: ActivationRequest, here: Resources, subject: Subject | None) -> None:
    """Answer the request, or record why it failed; no error of a text is one of the worker's."""
    waiting = Activations(here.store)
    try:
        waiting.finish(request.id, _read(request, here, subject))
    except LabelerError as error:
        waiting.fail(request.id, str(error))
    except Exception as error:
        log.exception("activations: a text could not be read")
        waiting.fail(request.id, f"an internal error, {type(error).__name__}; see the log of the gather worker")


def _read(request: ActivationRequest, here: Resources, subject: Subject | None) -> dict[str, Any]:
    from labeler.evidence.activations import describe_activations, read_text
    from labeler.evidence.gathered import revision_of
    from labeler.recipe import GatherConfig
    from labeler.subject.vocabulary import Vocabulary

    manifest, path = here.store.evidence(request.asked["evidence"])
    config = GatherConfig.from_dict(manifest["config"])
    subject = subject or model_cache.subject(manifest["subject"]["id"], revision_of(manifest), config.dtype)
    found = read_text(subject, _target(manifest, subject, config.dtype), config, request.asked["text"], MOST_TOKENS)
    return describe_activations(found, Vocabulary(Path(path)))


def _target(manifest: dict[str, Any], subject: Subject, dtype: str) -> Target:
    from labeler.evidence.gathered import sae_name, target_of

    def load() -> Target:
        return target_of(manifest, subject, model_cache.sae(subject, sae_name(manifest), manifest["hookpoint"], dtype))

    try:
        return load()
    except MismatchError:
        model_cache.forget()  # another SAE may have replaced the one in memory since it was loaded
        return load()
