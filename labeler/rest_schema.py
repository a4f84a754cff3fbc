"""Values sent over HTTP: the service answers with them, and the client reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from labeler.names import LONGEST_NAME
from labeler.records import Source, Split, State
from labeler.schema import DECLARED
from labeler.terms import (
    LONGEST_COMMENT,
    LONGEST_LABEL,
    MOST_CHARACTERS,
    Choose,
    JobKind,
    JobState,
    RequestState,
    Scope,
    Verdict,
)

T = TypeVar("T")
MOST_PAIRS = 10_000
_LARGEST = 2**31 - 1


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _clean(text: str) -> str:
    """Check that every database and every log can hold a text."""
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("a null character or half of a surrogate pair is not text")
    return text


def _no_path(evidence: Any) -> Any:
    if isinstance(evidence, str) and not evidence.strip().isdecimal():
        raise ValueError("expected the id of an evidence; POST /v1/evidence with a folder's path answers with its id")
    return evidence


Time = Annotated[datetime, AfterValidator(_utc)]
Text = Annotated[str, AfterValidator(_clean)]
Id = Annotated[int, Field(ge=1, le=_LARGEST)]
Index = Annotated[int, Field(ge=0, le=_LARGEST)]


class Wire(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class RequestBody(Wire):
    """The body of a request. An unknown key is an error, so that no wish is silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Page(Wire, Generic[T]):
    """A page of a list. `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None = Field(description="Give it as `cursor`, with the same filters, for the next page.")


class Problem(Wire):
    """RFC 9457, application/problem+json."""

    type: str = Field(examples=["urn:labeler:problem:not-found"])
    title: str
    status: int
    detail: str = Field(examples=["label set 77: there is none here; GET /v1/sets lists those there are"])
    request_id: str
    errors: list[dict[str, Any]] | None = Field(None, description="The faults, each with its part of the request.")


class Sae(Wire):
    id: int = Field(examples=[1])
    subject: str = Field(examples=["EleutherAI/pythia-70m"])
    revision: str
    hookpoint: str = Field(examples=["gpt_neox.layers.3"])
    name: str = Field(description="The names of subject and SAE that people see.", examples=["pythia-70m / res-jb"])
    path: str = Field(description="The SAE's name, without a path of the server.")
    format: str
    architecture: str
    sha256: str = Field(description="SHA-256 of the weights.")
    n_features: int = Field(examples=[32768])
    d_in: int | None


class Evidence(Wire):
    id: int
    hash: str
    sae_id: int
    created_at: Time


class EvidenceDetail(Evidence):
    manifest: dict[str, Any] = Field(
        description="Subject, SAE, corpus, splits and configuration of the gathering pass."
    )


class Score(Wire):
    """One score of a label. What an older version did not store is null."""

    value: float | None
    reason: str | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    n_failed: int = 0
    null_z: float | None = None
    null_p: float | None = None
    null_n: int = 0
    null_mean: float | None = None
    baseline_token_lookup: float | None = None


def _declared(name: str, **more: Any) -> Any:
    """Describe a value as the column of this name is declared (labeler/schema.py)."""
    column = DECLARED[name]
    return Field(description=f"{column.meaning}{f' Range: {column.range}.' if column.range else ''}", **more)


class Label(Wire):
    """A feature in a label set. An undefined score is null, and `score_reason` says why."""

    sae: int
    label_set_id: int = _declared("label_set_id", examples=[1])
    feature_index: int = _declared("feature_index", examples=[123])
    state: State = _declared("state")
    label: str | None = _declared("label", examples=["`raise` at the beginning of a statement"])
    explainer: str | None = _declared("explainer", examples=["openai:gpt-5-mini"])
    reason: str | None = _declared("reason")
    score: float | None = _declared("score", examples=[0.71])
    score_reason: str | None = _declared("score_reason")
    score_low: float | None = _declared("score_low", examples=[0.55])
    score_high: float | None = _declared("score_high", examples=[0.83])
    score_n: int | None = _declared("score_n")
    score_null_z: float | None = _declared("score_null_z")
    score_null_p: float | None = _declared("score_null_p")
    baseline_token_lookup: float | None = _declared("baseline_token_lookup")
    score_weighted: float | None = _declared("score_weighted")
    score_weighted_low: float | None = _declared("score_weighted_low", default=None)
    score_weighted_high: float | None = _declared("score_weighted_high", default=None)
    detection: float | None = _declared("detection")
    fuzzing: float | None = _declared("fuzzing")
    density: float | None = _declared("density")
    max_activation: float | None = _declared("max_activation")
    n_firings: int | None = _declared("n_firings")
    created_at: Time = _declared("created_at")
    scores: dict[str, Score] = Field(
        {},
        description="Every score of the label by name; empty in look-ups that do not ask for `scores`, and in searches.",
    )


class LookupRequest(RequestBody):
    pairs: list[tuple[Id, Index]] = Field(
        max_length=MOST_PAIRS, description="[SAE id, feature index] each.", examples=[[[1, 0], [1, 123]]]
    )
    sets: list[Id] | None = Field(None, max_length=1000, description="Only labels of these label sets.")
    choose: Choose = Field(
        Choose.DEFAULT,
        description="The label to show for a feature that has several: by `default` that of the set with the most labels; a "
        "look-up set comes after an LLM's.",
    )
    scores: bool = Field(False, description="Whether each label carries all its `scores`; without them it is quicker.")


class LookupResponse(Wire):
    labels: list[Label | None] = Field(description="One for each pair, in their order; null where there is none.")


class SearchBy(StrEnum):
    WORDS = "words"
    MEANING = "meaning"


class Hit(Label):
    rank: float = Field(description="Higher is better; comparable only within one search. By meaning: the cosine.")


class SearchPage(Page[Hit]):
    n_hits: int = Field(description="Hits that were ranked.")
    complete: bool = Field(
        description="False: there are more hits than were ranked; add a word. By meaning: labels are missing that have no "
        "embedding yet; run `labeler embed`."
    )


class LabelSet(Wire):
    id: int
    sae_id: int
    evidence_id: int
    subject: str
    name: str = Field(description="The names of subject and SAE that people see.", examples=["pythia-70m / res-jb"])
    hookpoint: str
    n_features: int
    explainer: str
    simulator: str
    recipe_hash: str
    created_at: Time


class LabelSetDetail(LabelSet):
    recipe: dict[str, Any]
    summary: dict[str, Any] = Field(description="Coverage, scores and cost.")


class ReviewRequest(RequestBody):
    verdict: Verdict = Field(
        description="`corrected` comes with a text; it is kept as another label. `comment` leaves the verdict as it was."
    )
    text: Text | None = Field(None, max_length=LONGEST_LABEL, examples=["`raise` that re-raises an exception"])
    comment: Text | None = Field(None, max_length=LONGEST_COMMENT)


class Review(Wire):
    id: int
    label_set_id: int
    feature_index: int
    verdict: Verdict
    text: str | None
    comment: str | None
    reviewer: str
    reviewed_label: str | None = Field(description="The text that was judged.")
    created_at: Time
    withdrawn_at: Time | None = Field(None, description="The time of withdrawal; null while the review counts.")
    withdrawn_by: str | None = None


class Reviews(Wire):
    items: list[Review]


class Context(Wire):
    """A window of tokens, and how strongly the feature fires on each. `predicted`: what the simulator expected."""

    document: int | None = Field(description="Null for contexts of an imported label set.")
    split: Split
    source: Source
    tokens: list[str]
    activations: list[float]
    predicted: list[float] | None = None
    reason: str | None = Field(None, description="The reason why there is no prediction.")
    n_flagged: int = Field(
        0, description="Predictions that rest on less than a thousandth of the simulator's probability."
    )


class OutputToken(Wire):
    token: str
    logit: float


class PlaceTokens(Wire):
    place: str = Field(description="The hookpoint that the feature writes to.", examples=["model.layers.4.mlp"])
    promoted: list[OutputToken]
    suppressed: list[OutputToken]


class Neighbour(Wire):
    feature_index: int
    cosine: float = Field(description="Cosine of the decoder directions.")


class Feature(Wire):
    sae: int
    feature_index: int
    label_set_id: int | None = Field(description="The label set shown; `explain` and `held_out` belong to it.")
    statistics: dict[str, Any] | None
    labels: list[Label] = Field(
        description="One label for each label set, the newest first; then those that people wrote."
    )
    reviews: list[Review] = Field(description="Reviews by people, with their own labels.")
    explain: list[Context] = Field(description="Contexts that the explainer saw.")
    held_out: list[Context] = Field(description="Contexts that the label was tested on: truth and simulation.")
    promoted: list[OutputToken]
    suppressed: list[OutputToken]
    places: list[PlaceTokens] = Field(
        default=[], description="Where the feature writes to several places, the tokens of each; else empty."
    )
    neighbours: list[Neighbour]
    contexts_reason: str | None = Field(description="The reason why contexts are missing.")


class Difference(Wire):
    feature_index: int
    label_a: str | None
    label_b: str | None
    score_a: float
    score_b: float
    interval_a: tuple[float, float] | None = Field(None, description="95%.")
    interval_b: tuple[float, float] | None = None


class Median(Wire):
    """A median with its 95% interval, which fewer than 6 values do not give."""

    value: float
    low: float | None
    high: float | None
    n: int


class Comparison(Wire):
    """Two label sets of one SAE. Differences are b - a; undefined scores are left out."""

    a: int
    b: int
    n_both: int
    states: dict[str, dict[str, int]]
    n_same_text: int
    n_scored: int
    mean_difference: float | None
    correlation: float | None
    n_higher_in_a: int
    n_higher_in_b: int
    n_apart_in_a: int
    n_apart_in_b: int
    largest: list[Difference]
    n_only_in_a: int = Field(0, description="Features that have a result only in a.")
    n_only_in_b: int = 0
    n_scored_in_one: int = Field(0, description="Features with a score in only one of them.")
    mean_interval: tuple[float, float] | None = Field(
        None, description="95% interval of the mean difference over features."
    )
    median_a: Median | None = Field(
        None, description="Correlation of the scores of a and b, over the features with a score in both."
    )
    median_b: Median | None = None
    score: str = Field("score", description="The column of the score that is compared.")


class Budget(RequestBody):
    usd: float | None = Field(None, gt=0)
    tokens: int | None = Field(None, gt=0, le=2**62)


class JobRequest(RequestBody):
    """A recipe applied to features of an evidence."""

    evidence: Annotated[Id, BeforeValidator(_no_path)] = Field(examples=[1])
    features: Text = Field(
        "all",
        max_length=1_000_000,
        description="`all`, `0-999`, `1,5,9`, `unlabeled`, `state=failed`, `density>1e-5`, `score<0.2`, joined by `and`.",
        examples=["unlabeled and density>1e-5"],
    )
    recipe: Text | dict[Text, Any] = Field(
        "lookup", description="The name of a recipe, or the content of a recipe file.", examples=["standard"]
    )
    explainer: Text | None = Field(
        None, max_length=200, description="Replaces the recipe's.", examples=["openai:gpt-5-mini"]
    )
    simulator: Text | None = Field(None, max_length=200)
    scores_of: Id | None = Field(None, description="The label set whose scores `score<...` compares.")
    priority: int = Field(5, ge=0, le=9, description="0 goes first.")
    budget: Budget = Budget(usd=None, tokens=None)


class EvidenceRequest(RequestBody):
    """Present evidence: a folder that `labeler gather` wrote into the service's data folder."""

    path: Text = Field(max_length=500, examples=["evidence/layer-3"])


class GatherJobRequest(RequestBody):
    """A gathering pass. `out` and every local path stay in the service's data folder."""

    subject: Text = Field(max_length=500, examples=["subjects/pythia-70m"])
    sae: Text = Field(max_length=500, examples=["saes/layer-3"])
    corpus: Text = Field(max_length=500, examples=["python-stdlib"])
    out: Text = Field(max_length=500, examples=["evidence/layer-3"])
    hookpoint: Text | None = Field(None, max_length=500)
    revision: Text | None = Field(None, max_length=200)
    text_field: Text = Field("text", max_length=200)
    n_shards: int = Field(1, ge=1, le=10_000)
    n_tokens: int | None = Field(None, ge=1, le=2**62)
    sequence_tokens: int = Field(256, ge=32, le=1 << 20)
    seed: int = Field(0, ge=0, le=_LARGEST)
    dtype: Text = "float32"
    priority: int = Field(5, ge=0, le=9)
    force: bool = Field(
        False, description="Gather also where the SAE explains so little that it may read another vector than its own."
    )
    name: Text | None = Field(
        None,
        max_length=LONGEST_NAME,
        description="`SUBJECT / SAE` for people. Default: hub ids, or the last folders.",
        examples=["pythia-70m / res-jb"],
    )


class Progress(Wire):
    state: JobState
    counts: dict[str, int] = Field(description="Features by state.")
    blocks: dict[str, int]
    per_second: float | None
    seconds_left: float | None
    requests: int
    tokens_in: int
    tokens_out: int
    cost_usd: float | None = Field(description="Null if the price of any part is unknown.")
    errors: dict[str, int] = Field(description="Failed features by kind of failure.")


class Job(Wire):
    id: int
    kind: JobKind
    state: JobState
    reason: str | None
    evidence_id: int | None
    label_set_id: int | None
    features: str | None  # the selection as it was sent; a list of jobs shortens a long one with "…"
    recipe: dict[str, Any] | None
    gather: dict[str, Any] | None
    priority: int
    budget_usd: float | None
    budget_tokens: int | None
    n_features: int
    n_blocks: int
    created_at: Time
    started_at: Time | None
    ended_at: Time | None


class JobDetail(Job):
    progress: Progress


class Failure(Wire):
    feature_index: int
    reason: str


class ActivationsRequest(RequestBody):
    """A text for the subject of an SAE to read."""

    sae: Id = Field(examples=[1])
    text: Text = Field(min_length=1, max_length=MOST_CHARACTERS, examples=["raise ValueError(name)"])


class Firing(Wire):
    feature_index: int
    activation: float = Field(description="Activation in the units of the SAE.")


class ReadToken(Wire):
    token: str
    bytes: str | None = Field(
        None, description="The bytes in hex if the token is only a part of a character; else null."
    )
    n_firing: int = Field(description="Number of features that fire on the token.")
    top: list[Firing] = Field(description="The strongest of these features.")


class FiringFeature(Wire):
    """A feature, and where in the text it fires."""

    feature_index: int
    at: list[int] = Field(description="Indices of the tokens on which it fires.")
    activations: list[float] = Field(description="Its activation on each of these.")
    label: Label | None = Field(
        description="The label shown for the feature, with its set, its score and the highest activation in the corpus."
    )


class Activations(Wire):
    """A submitted text. Its answer is there once `state` is `done`, and is deleted an hour after the text came."""

    id: str
    state: RequestState
    reason: str | None = Field(description="The reason of a failure or a wait.")
    sae: int
    text: str
    created_at: Time
    n_firing: int | None = Field(None, description="Features that fire anywhere in the text.")
    tokens: list[ReadToken] | None = None
    features: list[FiringFeature] | None = Field(None, description="The highest first, at most 200.")


class Key(Wire):
    """An API key, without its secret."""

    id: str
    name: str
    scope: Scope
    rate: str
    created_at: Time
    revoked_at: Time | None


class Keys(Wire):
    items: list[Key]
