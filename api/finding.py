"""What a search finds, by words or by meaning: for the route and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from anyio import from_thread

from labeler.errors import ConflictError
from labeler.llm.patience import Patience
from labeler.settings import Settings
from labeler.store import Store
from labeler.store.embeddings import nearest_labels
from labeler.store.search import Hits, search_labels
from labeler.wire import SearchBy

if TYPE_CHECKING:
    from labeler.llm.client import OpenAILLM

# Somebody waits for the page: an endpoint that does not answer soon is not worth waiting for.
_PATIENCE = Patience(timeout=10.0, n_retries=1, n_retries_unanswered=1, first_wait=0.2, longest_total=2.0)
_KEPT = 256  # queries whose next pages cost nothing


class Finder:
    """`model` places queries by meaning; None where no embeddings endpoint is configured."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.model = settings.embeddings_model
        self._store, self._settings = store, settings
        self._llm: OpenAILLM | None = None

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
        from labeler.labeling.embed import embedded
        from labeler.llm.client import OpenAILLM
        from labeler.llm.ledger import MemoryLedger

        if self._llm is None:  # made in the event loop that uses it
            self._llm = OpenAILLM(
                self._settings.embeddings_url or self._settings.base_url, self._settings.api_key,
                ledger=MemoryLedger(_KEPT), patience=_PATIENCE,
            )  # fmt: skip
        return (await embedded([text.strip()], model, self._llm))[0]

    async def aclose(self) -> None:
        if self._llm is not None:
            await self._llm.aclose()
