"""Define every error that this project raises on purpose.

    LabelerError                 a message for a person: what was given, what was expected, what to do next
    ├── InputError               what the user gave cannot work as it is            (exit 2, HTTP 400/422)
    │   ├── NotFoundError        a path, id, hookpoint or feature that is not there (exit 2, HTTP 404)
    │   ├── FormatError          a file that is damaged, or in no format we read    (exit 2, HTTP 422)
    │   │   └── DamagedError     evidence that no longer is what was gathered       (exit 2, HTTP 409)
    │   │       └── DamagedFeatureError  ... of some features only, which are `failed` for it
    │   ├── MismatchError        two inputs that do not belong together             (exit 2, HTTP 422)
    │   └── ConflictError        the present state of things does not allow it      (exit 2, HTTP 409)
    ├── StorageError             disk full, database unreachable or locked          (exit 3, HTTP 503)
    │   └── TakenOverError       this process was held to be dead, and others do its work
    └── LLMError                 a request to an LLM that gave no usable reply      (exit 4, HTTP 502)
        ├── ConfigurationError   no key, unknown model: asking again cannot help; stops the run
        │   ├── EndpointDownError  request after request has failed: the endpoint needs a pause, and so does the run
        │   └── BudgetError      what the user allowed to be spent is spent     (exit 5, HTTP 402)
        ├── EndpointError        unreachable, timed out, 5xx or 429 after all retries
        ├── RefusedError         a refusal or a content filter
        └── UnreadableReply      an answer that does not follow the format we asked for

`LLMError` is caught per feature and stored as the reason why the feature `failed`;
Only `ConfigurationError` and its kinds end a run. Nothing here is ever turned into a label or a score.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labeler.records import Usage


class LabelerError(Exception):
    """Base of all errors that are meant for a person to read."""

    exit_code = 1
    http_status = 500


class InputError(LabelerError):
    exit_code = 2
    http_status = 422


class NotFoundError(InputError):
    http_status = 404


class FormatError(InputError):
    pass


class DamagedError(FormatError):
    """A file of an evidence folder is not what was gathered.

    `reason` names it within the folder, for everyone to read.
    """

    http_status = 409

    def __init__(self, folder: str | PathLike[str], file: str, problem: str) -> None:
        self.folder, self.file, self.problem = str(folder), file, problem
        self.reason = f"the evidence is damaged: {file}: {problem}; gather again, or bring back a copy of the folder"
        super().__init__(f"evidence {folder}: {file}: {problem}; gather again, or bring back a copy of the folder")

    def __reduce__(self) -> tuple[type[DamagedError], tuple[str, str, str]]:
        return type(self), (self.folder, self.file, self.problem)


class DamagedFeatureError(DamagedError):
    """Damage that spoils some features and leaves the others as they are."""


def reason_of(error: LabelerError) -> str:
    """Return the message for readers elsewhere: without the place of an evidence folder on this machine."""
    return error.reason if isinstance(error, DamagedError) else str(error)


class MismatchError(InputError):
    pass


class ConflictError(InputError):
    http_status = 409


class StorageError(LabelerError):
    exit_code = 3
    http_status = 503


class TakenOverError(StorageError):
    """Other processes have taken over this one's work, since it gave no sign of life for too long."""


class LLMError(LabelerError):
    """A request gave no usable reply. `kind` is a stable word for counting ("timeout", ...).

    `usage` is what the failed request cost: only who sent it sets it, and only `labeler.llm.meter` adds it up.
    """

    exit_code = 4
    http_status = 502
    kind = "llm"

    def __init__(self, message: str, *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage  # None: nothing was bought


class ConfigurationError(LLMError):
    kind = "configuration"


class EndpointDownError(ConfigurationError):
    kind = "endpoint down"


class BudgetError(ConfigurationError):
    exit_code = 5
    http_status = 402
    kind = "budget"


class EndpointError(LLMError):
    kind = "endpoint"


class RefusedError(LLMError):
    kind = "refused"


class UnreadableReply(LLMError):  # noqa: N818 - a reply is what it is
    """The model answered, and the answer does not follow the format we asked for."""

    kind = "malformed"

    def __init__(self, expected: str, reply: str, *, usage: Usage | None = None) -> None:
        super().__init__(f"expected {expected}, got {reply[:200]!r}", usage=usage)
        self.expected = expected
        self.reply = reply
