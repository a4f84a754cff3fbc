"""Keep the texts that a subject wrote with features turned up, beside the evidence; reading them needs no torch.

steered/config.json    how it was done, on which subject and SAE
steered/clean.json     the prompts, and what the subject writes after each by itself
steered/texts.jsonl    one feature per line: strength, divergence, a text after each prompt, or why there is none
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from labeler.errors import DamagedFeatureError, FormatError, InputError, MismatchError
from labeler.evidence.hashes import as_damage
from labeler.evidence.manifest import digest_of
from labeler.files import clear_disk_errors, read_json, write_json
from labeler.records import Steered, Trial

FOLDER = "steered"
_DIGEST = "digest"  # of each file and of each line


@dataclass(frozen=True)
class SteerConfig:
    """Settings for turning a feature up. The divergence decides the strength, so that features can be compared."""

    target_kl: float = 0.5  # nats, clean next-token distribution against steered, mean over prompts
    kl_tolerance: float = 0.02  # of target_kl
    n_prompts: int = 16
    prompt_tokens: int = 24
    new_tokens: int = 24
    n_controls: int = 8  # random features that every feature's texts are compared with
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0.0 < self.target_kl <= 20.0 and 0.0 < self.kl_tolerance < 1.0):
            raise InputError(
                f"a KL of {self.target_kl} within {self.kl_tolerance:.0%}: choose 0 to 20 nats, such as 0.5"
            )
        if self.n_prompts < 4 or self.prompt_tokens < 2 or self.new_tokens < 2 or self.n_controls < 1:
            raise InputError("steering needs at least 4 prompts of 2 tokens, 2 new tokens and 1 control")


@dataclass(frozen=True)
class SteeredTexts:
    """One feature turned up: the texts that the subject wrote after each prompt, or the reason why there are none."""

    feature_index: int
    texts: tuple[str, ...] | None  # as many as prompts
    strength: float | None = None  # multiples of the decoder direction added to the hidden state
    kl: float | None = None  # reached, nats
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.texts is None) != bool(self.reason):
            raise ValueError(f"feature {self.feature_index}: texts or a reason, never both or neither")


class SteeredFolder:
    """The steered texts of one evidence folder. Opening it only reads where each feature's line begins."""

    def __init__(self, evidence: Path) -> None:
        self.folder = evidence / FOLDER
        self._lines = self.folder / "texts.jsonl"

    @property
    def exists(self) -> bool:
        return (self.folder / "clean.json").exists()

    def begin(self, config: SteerConfig, identity: dict[str, Any]) -> None:
        """Make the folder, or check that it was begun in the same way. Raises MismatchError."""
        plan = {**asdict(config), **identity}
        if (self.folder / "config.json").exists():
            found = self._read("config.json")
            if found != plan:
                differing = ", ".join(k for k in plan if found.get(k) != plan[k])
                raise MismatchError(
                    f"{self.folder} was steered with another {differing}: use that, or remove the folder"
                )
        else:
            self._write("config.json", plan)

    def _write(self, name: str, values: dict[str, Any]) -> None:
        write_json(self.folder / name, {**values, _DIGEST: digest_of(values)})

    def _read(self, name: str) -> dict[str, Any]:
        """Read a file that all features share. Raises DamagedError; files of earlier versions have no digest."""
        with as_damage(self.folder.parent, f"{FOLDER}/{name}"):
            return _checked(read_json(self.folder / name))

    def write_clean(self, prompts: Sequence[str], clean: Sequence[str]) -> None:
        self._write("clean.json", {"prompts": list(prompts), "clean": list(clean)})

    def append(self, texts: SteeredTexts) -> None:
        values = asdict(texts)
        line = json.dumps({**values, _DIGEST: digest_of(values)}, allow_nan=False)
        with clear_disk_errors(self._lines), self._lines.open("ab") as file:
            file.write(line.encode() + b"\n")
        self.__dict__.pop("_index", None)

    def repair(self) -> None:
        """Cut off a line that a killed run left unfinished."""
        if self._lines.exists():
            data = self._lines.read_bytes()
            if data and not data.endswith(b"\n"):
                with clear_disk_errors(self._lines), self._lines.open("r+b") as file:
                    file.truncate(data.rfind(b"\n") + 1)

    @property
    def _offsets(self) -> dict[int, int]:
        return self._index[0]

    @cached_property
    def _index(self) -> tuple[dict[int, int], int]:
        """Return the offset at which the line of each feature begins, and the number of lines that name no feature."""
        offsets: dict[int, int] = {}
        n_unreadable = 0
        if self._lines.exists():
            position = 0
            with self._lines.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        # The index is the first field; parsing a whole line costs as much as reading all texts.
                        head = line.partition(b",")[0].partition(b":")[2]
                        if head.strip().isdigit():
                            offsets[int(head)] = position
                        else:
                            n_unreadable += 1
                    position += len(line)
        return offsets, n_unreadable

    @property
    def features(self) -> list[int]:
        return list(self._offsets)

    @cached_property
    def controls(self) -> list[int]:
        return [int(f) for f in self._read("config.json")["controls"]]

    @property
    def prompts(self) -> list[str]:
        return self._clean[0]

    @cached_property
    def _clean(self) -> tuple[list[str], list[str]]:
        clean = self._read("clean.json")
        return clean["prompts"], clean["clean"]

    def read(self, feature_index: int) -> SteeredTexts | None:
        if feature_index not in self._offsets:
            if self._index[1]:
                raise self._damaged(f"{self._index[1]} lines do not say of which feature they are")
            return None
        with self._lines.open("rb") as file:
            file.seek(self._offsets[feature_index])
            try:
                values = _checked(json.loads(file.readline()))
                if values["feature_index"] != feature_index:
                    raise ValueError("a line is of another feature than it says")
                values["texts"] = None if values["texts"] is None else tuple(values["texts"])
                return SteeredTexts(**values)
            except (ValueError, TypeError, KeyError, RecursionError, FormatError) as error:
                raise self._damaged(f"feature {feature_index}: {error}") from error

    def _damaged(self, what: str) -> DamagedFeatureError:
        problem = f"{what}; remove {FOLDER}/ and run `labeler intervene` again"
        return DamagedFeatureError(self.folder.parent, f"{FOLDER}/texts.jsonl", problem)

    def steered(self, feature_index: int) -> Steered:
        """Return a feature's trials, each against another control by a hash; never raises for lack of texts."""
        own = self.read(feature_index) if self.exists else None
        if own is None:
            return Steered(feature_index, (), "no steered texts: run `labeler intervene` for this feature")
        if own.texts is None:
            return Steered(feature_index, (), own.reason)
        controls = [c for f in self.controls if f != feature_index and (c := self.read(f)) is not None and c.texts]
        if not controls:
            return Steered(feature_index, (), "no other feature could be steered to compare with")
        prompts, clean = self._clean
        trials = []
        for i, text in enumerate(own.texts):
            control = controls[draw(f"control:{feature_index}:{i}", len(controls))].texts
            assert control is not None
            trials.append(Trial(prompts[i], clean[i], text, control[i]))
        return Steered(feature_index, tuple(trials))


def _checked(values: Any) -> dict[str, Any]:
    """Return an object without its digest. Raises FormatError where the digest does not fit the object."""
    if not isinstance(values, dict):
        raise FormatError(f"expected a JSON object, found {type(values).__name__}")
    digest = values.pop(_DIGEST, None)
    if digest is not None and digest != digest_of(values):
        raise FormatError("it does not fit its own digest")
    return values


def read_steered(evidence: Path, feature_index: int) -> Steered:
    """Return the trials of one feature; the folder is read again when it has grown."""
    lines = evidence / FOLDER / "texts.jsonl"
    stamp = (lines.stat().st_mtime_ns, lines.stat().st_size) if lines.exists() else (0, 0)
    return _opened(evidence, stamp).steered(feature_index)


@lru_cache(maxsize=8)
def _opened(evidence: Path, _stamp: tuple[int, int]) -> SteeredFolder:
    return SteeredFolder(evidence)


def draw(what: str, n: int) -> int:
    """Return a number of 0..n-1 by a hash of `what`, the same on every machine."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big") % n
