"""Everything that decides a result: how evidence is gathered, and how labels are made from it.

Both configurations are frozen, are stored with every result, and are hashed: two results with the same hashes were
made the same way. Change the meaning of a field, a prompt or a formula, and its version here changes with it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from labeler.errors import InputError

GATHER_VERSION = 1  # of the evidence format and of the way contexts are kept
SCORING_VERSION = 3  # of the choice of contexts, of the formulas, and of the prompt that revises a label


def _as_json(config: Any) -> dict[str, Any]:
    """The fields as JSON has them: tuples become lists."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def _hash(config: Any, version: int) -> str:
    canonical = json.dumps({"version": version, **asdict(config)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


DTYPES = ("float32", "bfloat16")  # that subjects and SAEs are run in


def check_dtype(dtype: str) -> str:
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}: choose {' or '.join(DTYPES)}")
    return dtype


def _kind_and_model(what: str, name: str) -> tuple[str, str | None]:
    kind, _colon, model = name.partition(":")
    if name == "lookup":
        return "lookup", None
    if kind != "openai" or not model:
        raise InputError(f"{what} {name!r} is not known: choose `lookup` or `openai:MODEL`, such as openai:gpt-5-mini")
    return kind, model


@dataclass(frozen=True)
class GatherConfig:
    """Settings of one pass over a corpus."""

    n_tokens: int | None = None  # stop after so many corpus tokens; None reads the whole corpus
    sequence_tokens: int = 256  # the subject reads documents in sequences of this many tokens
    window_tokens: int = 32  # contexts are windows of this many tokens
    prepend_bos: bool | None = None  # None: as the SAE's file says, else as the tokenizer does by default
    held_out_share: float = 0.4  # share of documents that only ever score labels
    seed: int = 0  # decides the split and the samples
    n_top: tuple[int, int] = (200, 80)  # TOP contexts kept a feature: EXPLAIN, HELD_OUT
    n_sampled: tuple[int, int] = (50, 50)  # SAMPLED contexts kept a feature: EXPLAIN, HELD_OUT
    n_random: tuple[int, int] = (512, 512)  # RANDOM windows kept, shared by all features: EXPLAIN, HELD_OUT
    chunk_tokens: int = 1 << 16  # the unit of shards and checkpoints; batches never cross it
    batch_tokens: int = 2048  # tokens the subject reads at once; in the config since it can move a last bit
    dtype: str = "float32"  # of the subject and the encoder: float32 or bfloat16

    def __post_init__(self) -> None:
        if not 0.05 <= self.held_out_share <= 0.95:
            raise InputError(f"held_out_share is {self.held_out_share}: choose between 0.05 and 0.95")
        if self.sequence_tokens < self.window_tokens:
            raise InputError(
                f"sequences of {self.sequence_tokens} tokens cannot hold windows of {self.window_tokens}: "
                "choose sequence_tokens >= window_tokens"
            )
        if not 4 <= self.window_tokens <= 255:
            raise InputError(f"window_tokens is {self.window_tokens}: choose between 4 and 255")
        check_dtype(self.dtype)

    @property
    def hash(self) -> str:
        return _hash(self, GATHER_VERSION)

    def to_dict(self) -> dict[str, Any]:
        return {**_as_json(self), "hash": self.hash}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GatherConfig:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "hash"}
        return cls(**fields)


# Methods of an explainer with the version of their prompts (explain/prompts.py): a changed word is a changed version.
EXPLAINERS = {
    "lookup": "lookup-2",
    "max-activation": "max-activation-2",
    "token-activation-pairs": "token-activation-pairs-1",
    "contrastive": "contrastive-1",
    "output-centric": "output-centric-1",
    "input-and-output": "input-and-output-1",
    "template": "template-1",
}

# The same of a simulator (score/simulate_prompts.py, score/echo_prompts.py) and of the other scorers.
SIMULATORS = {"lookup": "lookup-1", "sparse": "sparse-2", "logprobs": "logprobs-1", "echo": "echo-1"}
SCORERS = {
    "detection": "detection-1",
    "fuzzing": "fuzzing-1",
    "embedding": "embedding-1",
    "intervention": "intervention-1",
}
MATCHES_AT_MOST = 89  # contexts in one request: they are numbered with two digits, from 11 to 99
TOP_LOGPROBS = 20  # what hosted endpoints give at most

# Shares of the HELD_OUT documents that are set aside where a recipe decides something by scores; all others report.
PART_SHARES = {"choose": 0.2, "show": 0.2, "compare": 0.2}
N_HARD = 10  # HARD contexts where something asks about them and the recipe does not say how many


@dataclass(frozen=True)
class ContextsConfig:
    """The choice of gathered contexts: those that the explainer sees, and the held-out set (docs/reading-a-score.md)."""

    explain_top: int = 20  # out of the `explain_top_pool` highest
    explain_top_pool: int = 200
    explain_sampled: int = 20  # spread over the deciles of firing windows
    held_out_top: int = 10
    held_out_random: int = 10
    held_out_sampled: int = 10  # spread over the deciles, for the design-weighted score
    min_firing_windows: tuple[int, int] = (10, 10)  # fewer in EXPLAIN or HELD_OUT: the feature is `rare`
    near_duplicate: float = 0.5  # Jaccard similarity of token 8-grams above which two windows count as one
    explain_hard: int | None = None  # None: 10 where the explainer is `contrastive`, else 0
    held_out_hard: int | None = None  # None: 10 where a scorer asks about contexts (detection), else 0
    aside_top: int = 5  # of each part of the documents that is set aside for a decision
    aside_random: int = 5
    # The recipe around this implies both; Recipe sets them.
    draws: int = 1  # different choices of EXPLAIN contexts, one for each label of a best-of-K
    aside: tuple[str, ...] = ()  # of PART_SHARES

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self) if f.name.startswith(("explain_", "held_out_", "aside_", "draws"))):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"contexts.{name} is {getattr(self, name)}: give 0 or more")
        if unknown := [part for part in self.aside if part not in PART_SHARES]:
            raise InputError(f"contexts.aside names {unknown[0]!r}: known are {', '.join(PART_SHARES)}")

    @property
    def report_share(self) -> float:
        """Return the share of the HELD_OUT documents on which scores are reported."""
        return 1.0 - sum(PART_SHARES[part] for part in self.aside)

    @property
    def least_firing_windows(self) -> tuple[int, int]:
        """Return `min_firing_windows` where all held-out documents report; more where some of them are set aside."""
        explain, held_out = self.min_firing_windows
        return explain, math.ceil(held_out / self.report_share - 1e-9)


def check_prompt(found: str, today: str) -> None:
    """Raise InputError for a prompt of another version than the one that this code writes."""
    if found != today:
        raise InputError(
            f"the recipe was made with the prompt {found!r}, and this version of labeler writes {today!r}: "
            "start a new label set with a recipe of today"
        )


def _check_request(who: str, temperature: float | None, max_tokens: int) -> None:
    if temperature is not None and not 0.0 <= temperature <= 2.0:
        raise InputError(f"{who}.temperature is {temperature}: give 0 to 2")
    if max_tokens < 1:
        raise InputError(f"{who}.max_tokens is {max_tokens}: give 1 or more")


@dataclass(frozen=True)
class ExplainerConfig:
    kind: str = "lookup"  # "lookup" or "openai"
    model: str | None = None
    prompt_version: str = EXPLAINERS["lookup"]  # a method of EXPLAINERS, with the version of its prompt
    temperature: float | None = 0.0
    max_tokens: int = 200
    best_of: int = 1  # labels to choose from, by their scores on documents set aside
    revise: bool = False  # show the label what it gets wrong, and keep a second try where it scores better
    template: str | None = None  # the text of a Jinja template, for the method `template`

    def __post_init__(self) -> None:
        if self.kind not in ("lookup", "openai"):
            raise InputError(f"explainer kind {self.kind!r} is not known: choose lookup or openai")
        if self.method not in EXPLAINERS:
            raise InputError(f"explainer {self.method!r} is not known: choose {', '.join(EXPLAINERS)}")
        if (self.kind == "lookup") != (self.method == "lookup"):
            raise InputError(f"explainer kind {self.kind!r} does not go with the method {self.method!r}")
        _check_request("explainer", self.temperature, self.max_tokens)
        if not 1 <= self.best_of <= 64:
            raise InputError(f"explainer.best_of is {self.best_of}: give 1 to 64 labels to choose from")
        if self.kind == "lookup" and (self.best_of > 1 or self.revise):
            raise InputError("the look-up explainer has one label and no second thoughts: leave out best_of and revise")
        if self.method == "output-centric" and self.best_of > 1 and self.temperature == 0:
            raise InputError(
                "explainer.best_of: `output-centric` shows no contexts, so at temperature 0 all labels would be the "
                "same; set explainer.temperature, 1.0 for example"
            )
        if (self.method == "template") != (self.template is not None):
            raise InputError("explainer.template goes with the method `template`: give both or neither")

    @property
    def name(self) -> str:
        return self.kind if self.model is None else f"{self.kind}:{self.model}"

    @property
    def method(self) -> str:
        return self.prompt_version.rpartition("-")[0]


@dataclass(frozen=True)
class TriageConfig:
    """The rule for features that are worth an LLM: the others keep their look-up label, which costs nothing."""

    keep_lookup_from: float = 0.9  # score of the look-up label, on documents set aside, from which it is good enough
    densest: float = 1.0  # share of tokens; a feature that fires on more has no label that an LLM could find

    def __post_init__(self) -> None:
        if not -1.0 <= self.keep_lookup_from <= 1.0:
            raise InputError(f"triage.keep_lookup_from is {self.keep_lookup_from}: a score is between -1 and 1")
        if not 0.0 < self.densest <= 1.0:
            raise InputError(f"triage.densest is {self.densest}: give a share of tokens above 0, at most 1")


@dataclass(frozen=True)
class SimulatorConfig:
    """The simulator that predicts a feature's strengths from its label, and how its predictions are read."""

    kind: str = "lookup"  # "lookup" or "openai"
    model: str | None = None
    prompt_version: str = SIMULATORS["lookup"]  # a method of SIMULATORS, with the version of its prompt
    contexts_per_request: int = 10
    temperature: float | None = 0.0
    max_tokens: int = 2000
    simulate: str = "all"  # contexts: "all" that a score rests on, or "top-and-random", which the main score needs
    top_logprobs: int = 0  # alternatives wanted at each rating, by the methods that read them

    def __post_init__(self) -> None:
        if self.kind not in ("lookup", "openai"):
            raise InputError(f"simulator kind {self.kind!r} is not known: choose lookup or openai")
        if self.method not in SIMULATORS:
            raise InputError(f"simulator method {self.method!r} is not known: choose {', '.join(SIMULATORS)}")
        if (self.kind == "lookup") != (self.method == "lookup"):
            raise InputError(f"simulator kind {self.kind!r} does not go with the method {self.method!r}")
        if self.simulate not in ("all", "top-and-random"):
            raise InputError(f"simulator.simulate is {self.simulate!r}: choose all or top-and-random")
        _check_request("simulator", self.temperature, self.max_tokens)
        if not 1 <= self.contexts_per_request <= 1000:
            raise InputError(f"simulator.contexts_per_request is {self.contexts_per_request}: give 1 to 1000")
        if self.method in ("logprobs", "echo") and not 1 <= self.top_logprobs <= 100:
            raise InputError(
                f"simulator.top_logprobs is {self.top_logprobs}: the method {self.method!r} reads 1 to 100"
            )

    @classmethod
    def of(cls, model: str, method: str = "sparse", simulate: str = "all") -> SimulatorConfig:
        """Return an LLM as simulator, by one of the methods of SIMULATORS."""
        if method not in SIMULATORS:
            raise InputError(f"simulator method {method!r} is not known: choose {', '.join(SIMULATORS)}")
        alternatives = 0 if method == "sparse" else TOP_LOGPROBS
        return cls("openai", model, SIMULATORS[method], simulate=simulate, top_logprobs=alternatives)

    @property
    def name(self) -> str:
        return self.kind if self.model is None else f"{self.kind}:{self.model}"

    @property
    def method(self) -> str:
        return self.prompt_version.rpartition("-")[0]


@dataclass(frozen=True)
class ScorerConfig:
    """One more test of every label, beside simulation."""

    kind: str  # one of SCORERS
    model: str  # asked, or for "embedding" embedding
    prompt_version: str = ""  # empty: the current one of the kind
    contexts_per_request: int = 40
    temperature: float | None = 0.0
    max_tokens: int = 400
    # Alternatives wanted at each token of the reply, by which answers are ranked where the endpoint gives them. Few: the
    # ledger keeps them all.
    top_logprobs: int = 5

    def __post_init__(self) -> None:
        if self.kind not in SCORERS:
            raise InputError(f"scorer {self.kind!r} is not known: choose {', '.join(SCORERS)}")
        if not self.model:
            raise InputError(f"scorer {self.kind!r} names no model to ask")
        _check_request("scorer", self.temperature, self.max_tokens)
        if not 1 <= self.contexts_per_request <= MATCHES_AT_MOST:
            raise InputError(f"scorer.contexts_per_request is {self.contexts_per_request}: give 1 to {MATCHES_AT_MOST}")
        if not 0 <= self.top_logprobs <= 20:
            raise InputError(f"scorer.top_logprobs is {self.top_logprobs}: give 0 to 20")
        # A frozen value is set once, here: the version is a part of the recipe's hash.
        object.__setattr__(self, "prompt_version", self.prompt_version or SCORERS[self.kind])

    @classmethod
    def from_name(cls, name: str, simulator: SimulatorConfig) -> ScorerConfig:
        """Return the scorer for a name such as "detection" or "embedding:MODEL"; the default model is the simulator's."""
        kind, _colon, model = name.partition(":")
        model = model.removeprefix("openai:") or simulator.model or ""
        if kind == "embedding" and not name.removeprefix("embedding").strip(":"):
            raise InputError("scorer 'embedding' needs a model of its own: write embedding:MODEL")
        if kind in SCORERS and not model:
            raise InputError(f"scorer {kind!r} needs a model, and the simulator has none: write {kind}:MODEL")
        return cls(kind, model)


@dataclass(frozen=True)
class Recipe:
    """One way to label and score features."""

    explainer: ExplainerConfig = field(default_factory=ExplainerConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    contexts: ContextsConfig = field(default_factory=ContextsConfig)
    scorers: tuple[ScorerConfig, ...] = ()  # further tests of each label, one of a kind
    triage: TriageConfig | None = None
    # Labels of other features in the shuffled-label null. 20 is the least, whose smallest p, 1/21, no false-discovery
    # rate over a label set can survive; look-up labels are free, so there are more.
    n_null: int = 100
    confidence: float = 0.95
    seed: int = 0
    version: int = SCORING_VERSION  # by which it was made; only today's can be run

    def __post_init__(self) -> None:
        if self.simulator.kind == "lookup" and self.explainer.kind != "lookup":
            raise InputError(
                f"simulator 'lookup' reads the table of a look-up label, and explainer {self.explainer.name!r} "
                "writes words only: choose --simulator openai:MODEL"
            )
        if self.triage is not None and self.explainer.kind == "lookup":
            raise InputError("triage decides which features an LLM labels, and the explainer is the look-up: drop one")
        if self.n_null < 0:
            raise InputError(f"n_null is {self.n_null}: give 0 or more labels of other features, at least 20 for a p")
        if not 0.5 <= self.confidence < 1.0:
            raise InputError(f"confidence is {self.confidence}: give the share of intervals to hold, such as 0.95")
        if not 0.0 < self.contexts.near_duplicate < 1.0:
            raise InputError(
                f"contexts.near_duplicate is {self.contexts.near_duplicate}: windows are copies where they share more "
                "than this, so from 1 on nothing is one, and a label would be scored on texts that the explainer saw; "
                "give a share above 0 and below 1"
            )
        kinds = [scorer.kind for scorer in self.scorers]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise InputError(
                f"the recipe has the scorer {twice!r} twice, and their scores would have one name: drop one"
            )
        # Frozen values are set once, here: what the parts of a recipe imply for each other is part of its hash.
        object.__setattr__(self, "contexts", self._contexts())

    def _contexts(self) -> ContextsConfig:
        """Return the contexts that this recipe needs: documents set aside for its decisions, HARD ones where asked for."""
        aside = []
        if self.explainer.best_of > 1 or self.triage is not None:
            aside.append("choose")
        if self.explainer.revise:
            aside += ["show", "compare"]
        hard = {"explain_hard": self.explainer.method == "contrastive", "held_out_hard": self._asks_about_contexts}
        asked: dict[str, Any] = {
            name: N_HARD * wanted for name, wanted in hard.items() if getattr(self.contexts, name) is None
        }
        return replace(self.contexts, draws=self.explainer.best_of, aside=tuple(aside), **asked)

    @property
    def _asks_about_contexts(self) -> bool:
        return any(scorer.kind in ("detection", "fuzzing", "embedding") for scorer in self.scorers)

    @property
    def models(self) -> set[str]:
        """Return the models that this recipe asks; empty where the token look-up does everything."""
        named = (self.explainer.model, self.simulator.model, *(scorer.model for scorer in self.scorers))
        return {model for model in named if model is not None}

    @property
    def intervenes(self) -> bool:
        """Return True if a scorer asks about texts that the subject wrote, with labels of other features in the
        question.
        """
        return any(scorer.kind == "intervention" for scorer in self.scorers)

    @classmethod
    def from_names(
        cls,
        explainer: str,
        simulator: str | None = None,
        *,
        scorers: Sequence[str] = (),
        simulation: str = "sparse",
        simulate: str = "all",
    ) -> Recipe:
        """Return the recipe for names such as "lookup" or "openai:MODEL"; the default simulator is the explainer.

        `scorers` are names such as "detection" or "embedding:MODEL"; `simulation` and `simulate` are the method of an
        LLM as simulator and its contexts (SimulatorConfig). Raises InputError naming what is known.
        """
        explains = _kind_and_model("explainer", explainer)
        model = _kind_and_model("simulator", simulator or explainer)[1]
        simulates = (
            SimulatorConfig(simulate=simulate) if model is None else SimulatorConfig.of(model, simulation, simulate)
        )
        return cls(
            ExplainerConfig()
            if explains[0] == "lookup"
            else ExplainerConfig(*explains, prompt_version=EXPLAINERS["max-activation"]),
            simulates,
            scorers=tuple(ScorerConfig.from_name(name, simulates) for name in scorers),
        )

    @property
    def hash(self) -> str:
        return _hash(self, self.version)

    def check_versions(self) -> None:
        """Raise InputError for a recipe of another version, whose contexts, formulas or prompts are not today's."""
        if self.version != SCORING_VERSION:
            raise InputError(
                f"the recipe was made with version {self.version} of the scoring, and this version of labeler scores by "
                f"version {SCORING_VERSION}: start a new label set with a recipe of today"
            )
        check_prompt(self.explainer.prompt_version, EXPLAINERS[self.explainer.method])
        check_prompt(self.simulator.prompt_version, SIMULATORS[self.simulator.method])
        for scorer in self.scorers:
            check_prompt(scorer.prompt_version, SCORERS[scorer.kind])

    def to_dict(self) -> dict[str, Any]:
        return {"version": self.version, "hash": self.hash, **_as_json(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        parts = {"explainer": ExplainerConfig, "simulator": SimulatorConfig, "contexts": ContextsConfig}
        fields: dict[str, Any] = {k: v for k, v in values.items() if k != "hash"}
        for name, kind in parts.items():
            fields[name] = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields[name].items()})
        fields["scorers"] = tuple(ScorerConfig(**scorer) for scorer in fields.get("scorers", ()))
        if fields.get("triage") is not None:
            fields["triage"] = TriageConfig(**fields["triage"])
        return cls(**fields)
