"""Evidence folders kept open: opening one maps a dozen files."""

from __future__ import annotations

import threading
from collections import OrderedDict

from labeler.evidence.store import EvidenceFolder

_MOST = 16


class Folders:
    """The folders used last."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, EvidenceFolder] = OrderedDict()
        self._lock = threading.Lock()

    def folder(self, path: str) -> EvidenceFolder:
        """Raises NotFoundError or FormatError."""
        with self._lock:
            if path not in self._open:
                self._open[path] = EvidenceFolder(path)
            self._open.move_to_end(path)
            while len(self._open) > _MOST:
                self._open.popitem(last=False)
            return self._open[path]
