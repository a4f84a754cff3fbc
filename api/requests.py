"""Bodies of requests as values of the pipeline: recipes without paths or endpoints, local paths below the data folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labeler.bundled import PATHS as DEMO
from labeler.errors import InputError
from labeler.places import (
    CORPUS_SUFFIXES,
    data_set_on_hub,
    hub_name,
    hub_revision,
    is_hidden,
    is_hub_name,
    release_of_saelens,
    sae_on_hub,
)
from labeler.recipe import GatherConfig, Recipe
from labeler.recipes import known_recipes, read_recipe, recipe_from_values
from labeler.rest_schema import GatherJobRequest, JobRequest
from labeler.store.jobs.states import GatherRequest

_LARGEST = 2**53  # beyond it a number of JSON is not the number that was meant
_OWNED = {"logs", "huggingface", "up.lock"}  # names in the data folder that are the service's
_OWNED_PREFIXES = ("labeler.db", "redis", "dump.rdb", ".")
_OWNED_SUFFIXES = ("-wal", "-shm", "-journal", ".partial", ".lock")  # beside a database or a file that is being written
_OF_A_PASS = ("plan.json", "manifest.json", "corpus", "shards")


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
        subject=_subject(asked.subject, data),
        sae=_sae(asked.sae, data),
        corpus=_corpus(asked.corpus, data),
        out=str(_free(asked.out, data)),
        hookpoint=asked.hookpoint,
        revision=hub_revision(asked.revision, "revision"),
        text_field=asked.text_field,
        n_shards=asked.n_shards,
        config=config,
        name=asked.name,
        force=asked.force,
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
    # A hidden file is no one's data: it holds what a program keeps for itself, such as a token.
    if full == root or not full.is_relative_to(root) or is_hidden(full.relative_to(root)):
        raise InputError(f"{name}: expected a path in the service's data folder, relative to it")
    return full


def _subject(name: str, data: Path) -> str:
    """A folder in the data folder where there is one, else the id of a model on the hub."""
    if name in DEMO:
        return name
    path = below(name, data, "subject")
    return hub_name(name, "subject") if is_hub_name(name) and not path.exists() else str(path)


def _sae(name: str, data: Path) -> str:
    if name.startswith("hf:"):
        sae_on_hub(name)
    elif name.startswith("sae-lens:"):
        release_of_saelens(name)
    elif name not in (*DEMO, "neurons"):
        return str(below(name, data, "sae"))
    return name


def _corpus(name: str, data: Path) -> str:
    """Raises InputError also for a file of a kind that no corpus is, such as one without a suffix."""
    if name.startswith("hf:"):
        data_set_on_hub(name)
    if name.startswith("hf:") or name == "python-stdlib":
        return name
    path = below(name, data, "corpus")
    if path.exists() and not path.is_dir() and not (path.is_file() and path.suffix in CORPUS_SUFFIXES):
        raise InputError(
            f"corpus: expected a folder, or a file whose name ends with {', '.join(sorted(CORPUS_SUFFIXES))}"
        )
    return str(path)
