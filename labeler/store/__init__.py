"""Results as rows, in SQLite by default and in PostgreSQL by URL.

    tables      what is stored
    base        connections, rows, columns, counters, the ledger of replies
    label_sets  reading, searching, comparing and choosing labels
    jobs        requests, their blocks, claims of features
    people      API keys, reviews

The stages of the pipeline do not know about the store.
"""

from labeler.store.base.store import LabelSetInfo, Store, open_store
from labeler.store.base.summary import LabelSetSummary
from labeler.store.tables.embeddings import EMBEDDINGS
from labeler.store.tables.imported import IMPORTED_CONTEXTS
from labeler.store.tables.jobs import BLOCKS, JOBS
from labeler.store.tables.service import API_KEYS, REVIEWS

__all__ = [
    "API_KEYS",
    "BLOCKS",
    "EMBEDDINGS",
    "IMPORTED_CONTEXTS",
    "JOBS",
    "REVIEWS",
    "LabelSetInfo",
    "LabelSetSummary",
    "Store",
    "open_store",
]
