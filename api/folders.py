"""Evidence folders kept open: opening one maps a dozen files."""

from __future__ import annotations

import threading
from collections import OrderedDict

from labeler.errors import DamagedError, InputError, NotFoundError
from labeler.evidence.store import EvidenceFolder
from labeler.store import Store
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.imported import evidence_folder
from labeler.views import FeatureView, feature_view

_MOST = 16


class Folders:
    """The folders used last."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, EvidenceFolder] = OrderedDict()
        self._lock = threading.Lock()

    def folder(self, path: str) -> EvidenceFolder:
        """Raises NotFoundError, FormatError or DamagedError."""
        with self._lock:
            if path not in self._open:
                self._open[path] = EvidenceFolder(path)
            self._open.move_to_end(path)
            while len(self._open) > _MOST:
                self._open.popitem(last=False)
            return self._open[path]

    def view(self, store: Store, sae: int, index: int, label_set: int | None) -> tuple[EvidenceFolder, FeatureView]:
        """Read a feature from the evidence of a label set; without one, from the newest evidence of its SAE.

        Raises DamagedError, or NotFoundError with the reason for those who ask: it names no path of this machine.
        """
        path = catalogue.newest_evidence(store, sae).path if label_set is None else evidence_folder(store, label_set)
        try:
            folder = self.folder(path)
            return folder, feature_view(folder, index, store, label_set)
        except DamagedError:
            raise
        except InputError as error:
            raise NotFoundError("the evidence folder cannot be read on the machine that serves this") from error
