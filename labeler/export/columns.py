"""The columns of an exported label set, in order, and how each is typed."""

from __future__ import annotations

import pyarrow as pa

COLUMNS: dict[str, pa.DataType] = {
    "subject": pa.string(),
    "hookpoint": pa.string(),
    "sae": pa.string(),
    "feature_index": pa.int64(),
    "state": pa.string(),
    "label": pa.string(),
    "explainer": pa.string(),
    "score": pa.float64(),
    "score_low": pa.float64(),
    "score_high": pa.float64(),
    "score_n": pa.int64(),
    "score_null_z": pa.float64(),
    "score_null_p": pa.float64(),
    "baseline_token_lookup": pa.float64(),
    "detection": pa.float64(),
    "fuzzing": pa.float64(),
    "density": pa.float64(),
    "max_activation": pa.float64(),
    "n_firings": pa.int64(),
    "prompt_version": pa.string(),
    "recipe_hash": pa.string(),
    "tokens_in": pa.int64(),
    "tokens_out": pa.int64(),
    "cost_usd": pa.float64(),
    "created_at": pa.string(),
    # Beyond the agreed ones: a missing label or score needs its reason, a score its unflattering sibling, and a bill
    # its requests.
    "reason": pa.string(),
    "score_reason": pa.string(),
    "score_weighted": pa.float64(),
    "requests": pa.int64(),
}

# Of label sets that people have reviewed: the newest verdict on the label as it is, and the newest label of a person's own.
REVIEWS: dict[str, pa.DataType] = {"verdict": pa.string(), "person_label": pa.string(), "person": pa.string()}

TOP_CONTEXTS = "top_contexts"
TOP_CONTEXTS_TYPE = pa.list_(
    pa.struct({"text": pa.string(), "tokens": pa.list_(pa.string()), "activations": pa.list_(pa.float64())})
)
MORE_COLUMNS: dict[str, pa.DataType] = {**REVIEWS, TOP_CONTEXTS: TOP_CONTEXTS_TYPE}  # in this order, where they are
