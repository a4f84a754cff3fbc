"""The layout of the import tree: folders, keys, names and ids.

v1/config/<name>.jsonl                                         types and models named in the rows
v1/<model>/<source>/{release,model,sourceset,source}.jsonl     plain, one line each
v1/<model>/<source>/<table>/batch-<n>.jsonl.gz                 the data
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from labeler.errors import InputError

BOT = "clkht01d40000jv08hvalcvly"  # the author of texts that no person wrote
VERSION = "v1"
FEATURES_PER_FILE = 1024  # the fewest
FILES_PER_FOLDER = 1000  # the most: their import lists no more
TOP = -1  # binMin and binContains of the group with the highest activations

FEATURES, ACTIVATIONS, EXPLANATIONS, SCORES = "features", "activations", "explanations", "scores"
KEYS: dict[str, tuple[str, ...]] = {
    FEATURES: (
        "modelId",
        "layer",
        "index",
        "creatorId",
        "createdAt",
        "sourceSetName",
        "maxActApprox",
        "frac_nonzero",
        "freq_hist_data_bar_heights",
        "freq_hist_data_bar_values",
        "logits_hist_data_bar_heights",
        "logits_hist_data_bar_values",
        "pos_str",
        "pos_values",
        "neg_str",
        "neg_values",
    ),
    ACTIVATIONS: (
        "id",
        "modelId",
        "layer",
        "index",
        "tokens",
        "values",
        "maxValue",
        "maxValueTokenIndex",
        "minValue",
        "creatorId",
        "createdAt",
        "dataSource",
        "dataIndex",
        "binMin",
        "binMax",
        "binContains",
    ),
    EXPLANATIONS: (
        "id",
        "modelId",
        "layer",
        "index",
        "description",
        "authorId",
        "typeName",
        "explanationModelName",
        "embedding",
        "notes",
        "createdAt",
    ),
    SCORES: (
        "id",
        "value",
        "explanationId",
        "explanationScoreTypeName",
        "explanationScoreModelName",
        "initiatedByUserId",
        "jsonDetails",
        "createdAt",
    ),
}
AUTHOR = {FEATURES: "creatorId", ACTIVATIONS: "creatorId", EXPLANATIONS: "authorId", SCORES: "initiatedByUserId"}

CONFIG = ("explanation_type", "explanation_model_type", "explanation_score_type", "explanation_score_model")
METADATA = ("release", "model", "sourceset", "source")


@dataclass(frozen=True)
class MetadataKeys:
    """The columns of one of their tables (their schema.prisma). An unknown or missing key is fatal."""

    needed: frozenset[str]
    optional: frozenset[str]


def _keys(needed: str, optional: str) -> MetadataKeys:
    return MetadataKeys(frozenset(needed.split()), frozenset(optional.split()))


_NAMED = "name displayName description"
_TIMES = "createdAt updatedAt"
METADATA_KEYS = {
    "release": _keys(
        "name description creatorName creatorId",
        "visibility isNewUi featured descriptionShort urls creatorEmail creatorNameShort defaultSourceSetName "
        "defaultSourceId defaultUmapSourceIds createdAt",
    ),
    "model": _keys(
        "id layers neuronsPerLayer owner creatorId",
        "displayNameShort displayName tlensId openRouterId dimension thinking visibility defaultSourceSetName "
        "defaultSourceId defaultGraphSourceSetName inferenceEnabled instruct website " + _TIMES,
    ),
    "sourceset": _keys(
        "modelId name description creatorName creatorId",
        "hasDashboards allowInferenceSearch visibility type urls creatorEmail releaseName hasGraphs graphEnabled "
        "similarityMatrixEnabled defaultOfModelId defaultGraphModelId defaultRange defaultShowBreaks showDfa "
        "showCorrelated showHeadAttribution showUmap createdAt",
    ),
    "source": _keys(
        "id modelId setName creatorId",
        "hasDashboards inferenceEnabled saelensConfig saelensRelease saelensSaeId hfRepoId hfFolderId visibility "
        "defaultOfModelId hasUmap hasUmapLogSparsity hasUmapClusters num_prompts num_tokens_in_prompt dataset notes "
        "cosSimMatchModelId cosSimMatchSourceId createdAt",
    ),
    "explanation_type": _keys(
        _NAMED + " creatorName creatorId", "featured isAttention explainerModelSettingsId settings url " + _TIMES
    ),
    "explanation_model_type": _keys(_NAMED + " creatorName", "featured openRouterModelId url " + _TIMES),
    "explanation_score_type": _keys(
        _NAMED + " creatorName creatorId", "featured isAttention scoreDescription scorerModel settings url " + _TIMES
    ),
    "explanation_score_model": _keys(_NAMED + " creatorName", "featured openRouterModelId url " + _TIMES),
}

_MODEL = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)  # the rule of their own form
_SOURCE = re.compile(r"(\d+)-([A-Za-z0-9_.-]{1,128})", re.ASCII)
_LAYER = re.compile(r"(?:^|[.\s])(\d+)(?=[.\s:|]|$)", re.ASCII)
_BATCH = re.compile(r"batch-(0|[1-9]\d*)\.jsonl\.gz", re.ASCII)
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Place:
    """The place of a source: its model, and `<layer>-<set>`."""

    model: str
    layer: int
    set: str

    @property
    def source(self) -> str:
        return f"{self.layer}-{self.set}"

    @classmethod
    def of(cls, model: str, source: str) -> Place:
        """Make a Place. Raises InputError for names that Neuronpedia would not accept."""
        if not _MODEL.fullmatch(model):
            raise InputError(f"model {model[:200]!r}: expected letters, digits, - and _, such as gpt2-small")
        found = _SOURCE.fullmatch(source)
        if found is None:
            raise InputError(f"source {source[:200]!r}: expected <layer>-<set>, such as 8-res-jb")
        return cls(model, int(found[1]), found[2])


def place_of(subject: str, hookpoint: str, sae: str) -> Place | None:
    """Return the default names of an SAE, or None for a hookpoint without a layer number."""
    if (theirs := _SOURCE.fullmatch(hookpoint)) is not None:  # nothing else is known of evidence that others gathered
        return Place(_slug(subject), int(theirs[1]), theirs[2])
    layer = _LAYER.search(hookpoint)
    return None if layer is None else Place(_slug(subject), int(layer[1]), _slug(sae))


def _slug(path: str) -> str:
    """Make a name from the last part of a path, or from the folder of a file: EleutherAI/pythia-70m -> pythia-70m."""
    parts = re.split(r"[/\\:]", path.partition("@")[0].rstrip("/"))
    stem, dot, suffix = parts[-1].rpartition(".")
    is_file = bool(dot) and suffix in ("safetensors", "pt", "npz")
    last = (parts[-2] if len(parts) > 1 else stem) if is_file else parts[-1]
    return re.sub(r"[^a-z0-9_-]+", "-", last.lower()).strip("-")[:128] or "unnamed"


def is_source(name: str) -> bool:
    return _SOURCE.fullmatch(name) is not None


def batch_number(file: str) -> int | None:
    found = _BATCH.fullmatch(file)
    return None if found is None else int(found[1])


def row_id(*parts: object) -> str:
    """Return 25 characters like a cuid, from the row's content: a second import meets the same ids, and skips them."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    number, letters = int.from_bytes(digest[:16], "big"), []
    for _ in range(24):
        number, digit = divmod(number, 36)
        letters.append(_ALPHABET[digit])
    return "c" + "".join(letters)


def time_text(moment: datetime) -> str:
    """Format a time for their metadata import: ISO 8601 in UTC, with milliseconds and a Z."""
    known = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return known.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{known.microsecond // 1000:03d}Z"
