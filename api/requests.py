"""Bodies of requests as values of the pipeline: recipes without paths or endpoints, local paths below the data folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labeler.demo import SAE as DEMO_SAE
from labeler.errors import InputError
from labeler.recipe import GatherConfig, Recipe
from labeler.recipes import known_recipes, read_recipe, recipe_from_values
from labeler.store.states import GatherRequest
from labeler.wire import GatherJobRequest, JobRequest

_LARGEST = 2**53  # beyond it a number of JSON is not the number that was meant
_OWNED = {"logs", "huggingface", "up.lock"}  # names in the data folder that are the service's
_OWNED_PREFIXES = ("labeler.db", "redis", "dump.rdb", ".")
_OWNED_SUFFIXES = ("-wal", "-shm", "-journal", ".partial", ".lock")  # beside a database or a file that is being written
_OF_A_PASS = ("plan.json", "manifest.json", "corpus", "shards")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def recipe_of(asked: JobRequest) -> Recipe:
    """The recipe of a request. Which endpoint is asked is no part of it: the workers' environment says that, and no request.

    Raises InputError.
    """
    if isinstance(asked.recipe, str):
        if asked.recipe not in known_recipes():
            raise InputError(
                f"recipe {asked.recipe[:80]!r} is not known: choose {', '.join(known_recipes())}, or write it out"
            )
        return read_recipe(asked.recipe, asked.explainer, asked.simulator)
    _check_numbers(asked.recipe)
    return recipe_from_values(asked.recipe, asked.explainer, asked.simulator)


def _check_numbers(value: Any) -> None:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _check_numbers(part)
    elif isinstance(value, (int, float)) and not -_LARGEST <= value <= _LARGEST:
        raise InputError("recipe: a number in it is too large")


def gather_request(asked: GatherJobRequest, data: Path) -> GatherRequest:
    """Raises InputError for a path that leads out of the data folder."""
    config = GatherConfig(
        n_tokens=asked.n_tokens, sequence_tokens=asked.sequence_tokens, seed=asked.seed, dtype=asked.dtype
    )
    return GatherRequest(
        subject=_hub_or_below(asked.subject, data, "subject"),
        sae=_sae(asked.sae, data),
        corpus=_corpus(asked.corpus, data),
        out=str(_free(asked.out, data)),
        hookpoint=asked.hookpoint,
        revision=asked.revision,
        text_field=asked.text_field,
        n_shards=asked.n_shards,
        config=config,
    )


def _free(path: str, data: Path) -> Path:
    """A folder to gather into: new, empty, or begun by another gathering pass. Raises InputError."""
    full = below(path, data, "out")
    files = [part for part in (full, *full.parents) if part.is_relative_to(data.resolve()) and part.is_file()]
    first = full.relative_to(data.resolve()).parts[0]
    if files or first in _OWNED or first.startswith(_OWNED_PREFIXES) or full.name.endswith(_OWNED_SUFFIXES):
        raise InputError("out: this is a file, or the service keeps something of its own there; name a new folder")
    if full.is_dir() and any(full.iterdir()) and not any((full / name).exists() for name in _OF_A_PASS):
        raise InputError("out: this folder holds something else than evidence; name a new folder")
    return full


def below(path: str, data: Path, name: str) -> Path:
    """The path, relative to the data folder, with links followed. Raises InputError where it leads out."""
    root = data.resolve()
    try:
        full = (root / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{name}: cannot be a path") from error
    if full == root or not full.is_relative_to(root):
        raise InputError(f"{name}: expected a path in the service's data folder, relative to it")
    return full


def _hub_or_below(path: str, data: Path, name: str) -> str:
    """A folder in the data folder where there is one, else the id of a model on the hub."""
    if _HUB_ID.fullmatch(path) and not below(path, data, name).exists():
        return path
    return str(below(path, data, name))


def _sae(path: str, data: Path) -> str:
    kind, colon, place = path.partition(":")
    if path in (DEMO_SAE, "neurons") or (
        colon and kind in ("hf", "sae-lens") and ".." not in place and not place.startswith("/")
    ):
        return path
    return str(below(path, data, "sae"))


def _corpus(path: str, data: Path) -> str:
    if path == "python-stdlib" or (path.startswith("hf:") and ".." not in path):
        return path
    return str(below(path, data, "corpus"))
