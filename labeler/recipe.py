"""Everything that decides a result: how evidence is gathered, and how labels are made from it.

Both configurations are frozen, are stored with every result, and are hashed: two results with the same hashes were
made the same way. Change the meaning of a field, a prompt or a formula, and its version here changes with it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from labeler.errors import InputError

GATHER_VERSION = 1  # of the evidence format and of the way contexts are kept
SCORING_VERSION = 1  # of the choice of contexts and of the formulas


def _as_json(config: Any) -> dict[str, Any]:
    """The fields as JSON has them: tuples become lists."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def _hash(config: Any, version: int) -> str:
    canonical = json.dumps({"version": version, **asdict(config)}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _kind_and_model(what: str, name: str) -> tuple[str, str | None]:
    kind, _colon, model = name.partition(":")
    if name == "lookup":
        return "lookup", None
    if kind != "openai" or not model:
        raise InputError(f"{what} {name!r} is not known: choose `lookup` or `openai:MODEL`, such as openai:gpt-5-mini")
    return kind, model


@dataclass(frozen=True)
class GatherConfig:
    """How one pass over a corpus is made."""

    n_tokens: int | None = None  # stop after so many corpus tokens; None reads the whole corpus
    sequence_tokens: int = 256  # the subject reads documents in sequences of this many tokens
    window_tokens: int = 32  # contexts are windows of this many tokens
    prepend_bos: bool | None = None  # None: as the SAE's file says, else as the tokenizer does by default
    held_out_share: float = 0.4  # share of documents that only ever score labels
    seed: int = 0  # decides the split and the samples
    n_top: tuple[int, int] = (200, 40)  # TOP contexts kept a feature: EXPLAIN, HELD_OUT
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

    @property
    def hash(self) -> str:
        return _hash(self, GATHER_VERSION)

    def to_dict(self) -> dict[str, Any]:
        return {**_as_json(self), "hash": self.hash}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GatherConfig:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "hash"}
        return cls(**fields)


@dataclass(frozen=True)
class ContextsConfig:
    """Which of the gathered contexts are used (scoring.md: what the explainer sees, the held-out set)."""

    explain_top: int = 20  # out of the `explain_top_pool` highest
    explain_top_pool: int = 200
    explain_sampled: int = 20  # spread over the deciles of firing windows
    held_out_top: int = 10
    held_out_random: int = 10
    held_out_sampled: int = 10  # spread over the deciles, for the design-weighted score
    min_firing_windows: tuple[int, int] = (10, 10)  # fewer in EXPLAIN or HELD_OUT: the feature is `rare`
    near_duplicate: float = 0.5  # Jaccard similarity of token 8-grams from which two windows count as one


@dataclass(frozen=True)
class ExplainerConfig:
    kind: str = "lookup"  # "lookup" or "openai"
    model: str | None = None
    prompt_version: str = "lookup-1"
    temperature: float | None = 0.0
    max_tokens: int = 200

    @property
    def name(self) -> str:
        return self.kind if self.model is None else f"{self.kind}:{self.model}"


@dataclass(frozen=True)
class SimulatorConfig:
    kind: str = "lookup"  # "lookup" or "openai"
    model: str | None = None
    prompt_version: str = "lookup-1"
    contexts_per_request: int = 10
    temperature: float | None = 0.0
    max_tokens: int = 2000

    @property
    def name(self) -> str:
        return self.kind if self.model is None else f"{self.kind}:{self.model}"


@dataclass(frozen=True)
class Recipe:
    """One way to label and score features."""

    explainer: ExplainerConfig = field(default_factory=ExplainerConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    contexts: ContextsConfig = field(default_factory=ContextsConfig)
    # Labels of other features in the shuffled-label null. 20 is the least, whose smallest p, 1/21, no false-discovery
    # rate over a label set can survive; look-up labels are free, so there are more.
    n_null: int = 100
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.simulator.kind == "lookup" and self.explainer.kind != "lookup":
            raise InputError(
                f"simulator 'lookup' reads the table of a look-up label, and explainer {self.explainer.name!r} "
                "writes words only: choose --simulator openai:MODEL"
            )

    @classmethod
    def from_names(cls, explainer: str, simulator: str | None = None) -> Recipe:
        """The recipe for names such as "lookup" or "openai:MODEL"; the simulator is the explainer where none is named.

        Raises InputError naming what is known.
        """
        explains = _kind_and_model("explainer", explainer)
        simulates = _kind_and_model("simulator", simulator or explainer)
        return cls(
            ExplainerConfig()
            if explains[0] == "lookup"
            else ExplainerConfig(*explains, prompt_version="max-activation-1"),
            SimulatorConfig() if simulates[0] == "lookup" else SimulatorConfig(*simulates, prompt_version="sparse-1"),
        )

    @property
    def hash(self) -> str:
        return _hash(self, SCORING_VERSION)

    def to_dict(self) -> dict[str, Any]:
        return {"version": SCORING_VERSION, "hash": self.hash, **_as_json(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        parts = {"explainer": ExplainerConfig, "simulator": SimulatorConfig, "contexts": ContextsConfig}
        fields: dict[str, Any] = {k: v for k, v in values.items() if k not in ("version", "hash")}
        for name, kind in parts.items():
            fields[name] = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields[name].items()})
        return cls(**fields)
