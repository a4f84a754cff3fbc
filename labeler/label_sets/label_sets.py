"""The label set that a run works on. The first result makes it, so an attempt that buys nothing leaves none behind."""

from __future__ import annotations

from labeler.evidence.store import EvidenceFolder
from labeler.recipe import Recipe
from labeler.store import LabelSetInfo, Store
from labeler.store.jobs.claims import Work


class LabelSetToMake:
    """The label set of this recipe on this evidence, which may exist already."""

    def __init__(self, store: Store, folder: EvidenceFolder, recipe: Recipe) -> None:
        self._store, self._folder, self._recipe = store, folder, recipe
        self._info: LabelSetInfo | None = None
        self.work = Work(folder.manifest["hash"], recipe.hash)

    def find(self) -> LabelSetInfo | None:
        """Return the label set; None where it does not exist."""
        if self._info is None:
            self._info = self._store.label_set_like(self._folder.manifest["hash"], self._recipe.hash)
        return self._info

    def make(self) -> LabelSetInfo:
        """Return the label set, made if it does not exist."""
        if self._info is None:
            folder = self._folder
            self._info = self._store.label_set_for(folder.manifest, str(folder.folder.resolve()), self._recipe)
        return self._info


class LabelSetAtHand:
    """A label set that exists: that of a job, or one that the caller has made."""

    def __init__(self, info: LabelSetInfo) -> None:
        self._info = info
        self.work = Work(info.evidence_hash, info.recipe_hash)

    def find(self) -> LabelSetInfo:
        return self._info

    def make(self) -> LabelSetInfo:
        return self._info


AnyLabelSet = LabelSetToMake | LabelSetAtHand
