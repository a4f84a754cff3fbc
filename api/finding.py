"""Search over labels by words or by meaning, for the route and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from anyio import from_thread

from labeler.errors import ConflictError
from labeler.llm.patience import Patience
from labeler.rest_schema import SearchBy
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.base.cursors import make_cursor, read_cursor
from labeler.store.label_sets import catalogue
from labeler.store.label_sets.embeddings import nearest_labels
from labeler.store.label_sets.queries import LabelRow
from labeler.store.label_sets.search import Hits, search_labels
from labeler.store.label_sets.written import rows_of_hits

if TYPE_CHECKING:
    from labeler.llm.client import OpenAILLM

# Somebody waits for the page: an endpoint that does not answer soon is not worth waiting for.
_PATIENCE = Patience(timeout=10.0, n_retries=1, n_retries_unanswered=1, first_wait=0.2, longest_total=2.0)
_KEPT = 256  # queries whose next pages cost nothing


@dataclass(frozen=True)
class FoundPage:
    rows: list[tuple[LabelRow, float]]  # with the rank of each, the best first
    n_hits: int  # that were ranked
    complete: bool
    next_cursor: str | None


class Finder:
    """`model` places queries by meaning; None where no embeddings endpoint is configured."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.model = settings.embeddings_model
        self._store, self._settings = store, settings
        self._llm: OpenAILLM | None = None

    def page(
        self, text: str, by: SearchBy, sae: str | None, label_set: int | None, limit: int, cursor: str | None
    ) -> FoundPage:
        """Hits in the label sets of an SAE, or of all; `label_set`: of them this one. Raises as `find`, and NotFoundError."""
        sae_id = None if sae is None else catalogue.find_sae(self._store, sae).id
        sets = [s for s in catalogue.sets_of(self._store, sae_id) if label_set in (None, s)]
        query = ("search", text, sae_id, label_set, by)
        found = self.find(text, by, sets, limit + 1, read_cursor(query, cursor, (float, int, int, int)))
        shown = found.hits[:limit]
        rows = zip(rows_of_hits(self._store, shown), shown, strict=True)
        more = make_cursor(query, shown[-1].position) if len(found.hits) > limit else None
        return FoundPage([(row, hit.rank) for row, hit in rows if row is not None], found.n_hits, found.complete, more)

    def find(
        self, text: str, by: SearchBy, label_sets: Sequence[int], limit: int, after: tuple[float, int, int, int] | None
    ) -> Hits:
        """Called in a worker thread of the application. Raises InputError, and LLMError where the endpoint fails."""
        if by is SearchBy.WORDS:
            return search_labels(self._store, text, label_sets, limit, after)
        if self.model is None:
            raise ConflictError(
                "search by meaning: this service has no embeddings endpoint (LABELER_EMBEDDINGS_MODEL is not set); search by words"
            )
        vector = from_thread.run(self._place, text, self.model)
        return nearest_labels(self._store, self.model, vector, label_sets, limit, after)

    async def _place(self, text: str, model: str) -> np.ndarray:
        # Not at the start: most services do without, and the openai library takes a second to load.
        from labeler.label_sets.embed import embedded
        from labeler.llm.client import OpenAILLM
        from labeler.llm.ledger import MemoryLedger

        if self._llm is None:  # made in the event loop that uses it
            self._llm = OpenAILLM(
                self._settings.embeddings_url or self._settings.base_url,
                self._settings.api_key,
                ledger=MemoryLedger(_KEPT),
                patience=_PATIENCE,
            )
        return np.asarray((await embedded([text.strip()], model, self._llm))[0])

    async def aclose(self) -> None:
        if self._llm is not None:
            await self._llm.aclose()
