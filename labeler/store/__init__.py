"""Results as rows, in SQLite by default and in PostgreSQL by URL.

The stages of the pipeline do not know about the store.
"""

from labeler.store.embedding_tables import EMBEDDINGS
from labeler.store.imported_tables import IMPORTED_CONTEXTS
from labeler.store.job_tables import BLOCKS, JOBS
from labeler.store.service_tables import API_KEYS, REVIEWS
from labeler.store.store import LabelSetInfo, Store, open_store
from labeler.store.summary import LabelSetSummary

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
