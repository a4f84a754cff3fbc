"""Show one SAE's files to a format's reader: tensors by name, configurations beside them, and their path.

A reader takes what it knows and calls `finish`: whatever it did not take is refused by name, since a tensor that no one
understands may be the one that decides what a feature is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from labeler.errors import FormatError
from labeler.published.names import origin_of, root_of
from labeler.sae.files import (
    as_float,
    check_stored,
    listed,
    read_config,
    read_npz,
    read_pt,
    read_safetensors,
    read_yaml,
    source_of,
)
from labeler.sae.sae import Source
from labeler.tensors import state_hash


@dataclass
class Weights:
    """The files of one SAE: `path`, and where its weights are split, `more`."""

    path: Path
    more: tuple[Path, ...] = ()
    _taken: set[str] = field(default_factory=set)
    _remarks: list[str] = field(default_factory=list)

    @classmethod
    def in_memory(cls, name: str, tensors: dict[str, Any]) -> Weights:
        """Tensors that were never a file; `name` stands in for their path."""
        weights = cls(Path(name))
        weights.__dict__["tensors"] = tensors
        return weights

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """All values of the files by name, without the prefix that torch.compile leaves."""
        found: dict[str, Any] = {}
        for path in (self.path, *self.more):
            found |= _READERS[path.suffix](path)
        return {str(name).removeprefix("_orig_mod."): value for name, value in found.items()}

    @property
    def names(self) -> set[str]:
        return set(self.tensors)

    @cached_property
    def origin(self) -> str:
        """Repository and path as far as the folders say, such as `google/gemma-scope-2b-pt-att/layer_0/params.npz`."""
        return origin_of(self.path)

    def has(self, *names: str) -> bool:
        return set(names) <= self.names

    def is_shaped(self, name: str, n_dimensions: int) -> bool:
        value = self.tensors.get(name)
        return isinstance(value, Tensor) and value.ndim == n_dimensions

    def take(self, *names: str) -> Tensor:
        """The first of these tensors that is there, in float32. Raises FormatError naming what was looked for."""
        return as_float(self.take_matrix(*names))

    def take_matrix(self, *names: str) -> Tensor:
        """Return the first of these tensors that is there as the file holds it: in its own dtype, mapped, not copied.

        For encoders and decoders, which may fill the memory; `load.to` makes them float32. Raises FormatError without one.
        """
        for name in names:
            if isinstance(value := self.tensors.get(name), Tensor):
                check_stored(value, f"SAE {self.path}: {name}")
                self._taken.add(name)
                return value
        raise FormatError(f"SAE {self.path}: no tensor {' or '.join(map(repr, names))} among {listed(self.names)}")

    def take_if_there(self, name: str) -> Tensor | None:
        return self.take(name) if name in self.names else None

    def ignore(self, *names: str) -> None:
        """Pass over tensors that decide nothing about a feature, such as counters of a training run."""
        self._taken |= set(names)

    def config(self, *names: str) -> dict[str, Any] | None:
        """The first of these JSON or YAML files that stands beside the weights."""
        for name in names:
            path = self.path.parent / name
            if path.is_file():
                return read_yaml(path) if path.suffix in (".yaml", ".yml") else read_config(path)
        return None

    def config_of_repository(self, name: str) -> dict[str, Any] | None:
        """The JSON file of this name beside the weights, else the one at the root of their repository."""
        root = root_of(self.path)
        if (beside := self.config(name)) is None and root is not None and (root / name).is_file():
            return read_config(root / name)
        return beside

    def remark(self, text: str) -> None:
        """Say something that a reader of the card should know."""
        self._remarks.append(text)

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(self._remarks)

    def check_keys(self, config: dict[str, Any], known: Iterable[str], where: str) -> None:
        """Remark on keys of a configuration that this reader does not know."""
        if left := sorted(set(config) - set(known)):
            self.remark(f"{where} has keys that were not read: {listed(left)}")

    def refuse_keys(self, config: dict[str, Any], harmless: Mapping[str, Sequence[Any]], where: str) -> None:
        """Raise FormatError for a key whose value would change activations; `harmless` lists the values that do not."""
        for key, values in harmless.items():
            if key in config and config[key] not in values:
                raise FormatError(
                    f"SAE {self.path}: {where} says {key}: {config[key]!r}, which changes what a feature is and is not "
                    "supported"
                )

    def finish(self, format_name: str) -> Source:
        """Refuse tensors that were not taken, and return where the SAE came from."""
        if left := sorted(self.names - self._taken):
            raise FormatError(
                f"SAE {self.path}: read as {format_name}, it holds tensors that this format does not have: "
                f"{listed(left)}. It may be another kind of SAE, and reading the rest of it would give wrong features"
            )
        if not self.path.exists():
            return Source(self.path, format_name, state_hash(self.tensors))
        return source_of(self.path, format_name)


_READERS = {".safetensors": read_safetensors, ".npz": read_npz, ".pt": read_pt, ".pth": read_pt}
