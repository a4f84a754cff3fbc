"""The card of an imported label set: found, checked, and kept as the provenance of the new label set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labeler import __version__
from labeler.errors import FormatError, InputError, MismatchError, NotFoundError
from labeler.evidence.format import HEAD
from labeler.evidence.store import BY_OTHERS
from labeler.export.export import SPREADSHEET
from labeler.files import read_json
from labeler.imports.files import kind_of
from labeler.places import respelled_hookpoint, spelled_hookpoint
from labeler.recipe import SCORING_VERSION, Recipe
from labeler.store.label_sets.imported import Origins
from labeler.store.tables.label_sets import in_utc

_PARTS: dict[str, tuple[str, ...]] = {
    "subject": ("id", "revision"),
    "sae": ("path", "format", "architecture", "sha256", "n_features"),
    "corpus": (),
    "splits": ("explain", "held_out"),
    "gathering": (),
    "evidence": ("hash", "created_at", "versions"),
    "sae_quality": (),
    "recipe": ("hash", "explainer", "simulator"),
    "results": (),
    "coverage": (),
}
_MOST_SCORES = 500
_DENSITY_ERROR = 1e-6  # relative error; other tools may round in CSV


def read_card(path: Path, card: Path | None = None) -> dict[str, Any]:
    """Read the card at `card`, or that of the label set at `path`: inside Parquet, beside other files.

    Raises NotFoundError where there is none, and FormatError for a damaged or incomplete one.
    """
    found = read_json(card) if card is not None else _inside(path) if kind_of(path) == "parquet" else _beside(path)
    where = f"the card of {path}"
    if isinstance(found, dict) and found.get("form") == SPREADSHEET:
        raise InputError(
            f"{path} was exported with --spreadsheet, which changes texts: import a file exported without it"
        )
    if not isinstance(found, dict):
        raise FormatError(f"{where}: expected a JSON object, as `labeler export` writes it")
    for part, keys in _PARTS.items():
        for key in ("", *keys):
            held = found.get(part) if not key else found[part].get(key)
            if held is None or (not key and not isinstance(held, dict)):
                raise FormatError(
                    f"{where}: {part}{key and '.'}{key} is missing; give the card that came with the file"
                )
    for key in ("hookpoint", "reads", "explainer", "simulator", "created_at"):
        if not isinstance(found.get(key), str):
            raise FormatError(f"{where}: {key} is missing; give the card that came with the file")
    _check_recipe(where, found["recipe"])
    return found


def scores_in_card(path: Path, card: Mapping[str, Any]) -> list[str]:
    """Return the names of the scores that the card says its label set has. Cards of older versions do not say it."""
    scores = card.get("scores") or {}
    if not isinstance(scores, dict) or len(scores) > _MOST_SCORES or any(len(name) > 200 for name in scores):
        raise FormatError(f"the card of {path}: scores are not a list of at most {_MOST_SCORES} named scores")
    return list(scores)


def _inside(path: Path) -> Any:
    try:
        inside = pq.read_schema(path).metadata or {}
        return json.loads(inside[b"labeler.card"])
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path}: damaged or cut Parquet ({str(error).splitlines()[0]})") from None
    except KeyError:
        raise NotFoundError(
            f"{path}: no card inside, as some tools drop it; give the one that was exported with --card FILE"
        ) from None
    except ValueError as error:
        raise FormatError(f"{path}: the card inside is damaged ({error})") from None


def _beside(path: Path) -> Any:
    beside = path.with_name(path.name + ".card.json")
    if not beside.exists():
        raise NotFoundError(f"{path}: its card {beside.name} is not beside it; give it with --card FILE")
    return read_json(beside)


def _check_recipe(where: str, recipe: dict[str, Any]) -> None:
    if BY_OTHERS in recipe:  # made by others, in a way that no recipe here describes
        return
    try:
        made = Recipe.from_dict(recipe)
    except (InputError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{where}: this version cannot read its recipe ({error})") from None
    if recipe.get("version") == SCORING_VERSION and made.hash != recipe["hash"]:
        raise MismatchError(f"{where}: its recipe has the hash {made.hash} and says {recipe['hash']}: it was changed")


class Belongs:
    """Checks that the rows of a file belong to its card."""

    def __init__(self, path: Path, card: Mapping[str, Any]) -> None:
        self._path = path
        hookpoint = spelled_hookpoint(card["hookpoint"], card["reads"])
        self._same: dict[str, Any] = {
            "subject": card["subject"]["id"],
            "hookpoint": hookpoint,
            "sae": card["sae"]["path"],
            "prompt_version": card["recipe"]["explainer"]["prompt_version"],
            "recipe_hash": card["recipe"]["hash"],
            "label_set_id": [*card.get("imported", []), card][0]["label_set"],
            "simulator": card["simulator"],
        }
        self._n_tokens: int | None = card["corpus"].get("n_tokens")
        self.n_features = int(card["sae"]["n_features"])
        results = {state: c["features"] for state, c in card["coverage"].items() if state != "pending"}
        self.n_results = sum(results.values())

    def check(self, where: str, values: Mapping[str, Any]) -> None:
        """Raise MismatchError for a row of another label set."""
        if isinstance(values["hookpoint"], str):
            values = {**values, "hookpoint": respelled_hookpoint(values["hookpoint"])}
        for name, expected in self._same.items():
            if values[name] is not None and values[name] != expected:
                raise self._no(where, f"{name} is {values[name]!r:.80}, and the card says {expected!r:.80}")
        if not 0 <= values["feature_index"] < self.n_features:
            raise self._no(where, f"feature {values['feature_index']}, and the card's SAE has {self.n_features}")
        firings, density = values["n_firings"], values["density"]
        if None in (firings, density, self._n_tokens):
            return
        if abs(firings / max(self._n_tokens or 1, 1) - density) > _DENSITY_ERROR * density + 1e-12:
            raise self._no(
                where,
                f"density {density:.6g} with {firings} firings, and the card's corpus has {self._n_tokens} tokens",
            )

    def _no(self, where: str, what: str) -> MismatchError:
        return MismatchError(f"{where}: {what}: this card does not belong to this file; give the right one with --card")

    def check_number(self, n: int, *, part: bool) -> None:
        """Raise MismatchError if rows are missing, unless a part is imported. Too many rows are never allowed."""
        if n > self.n_results or (n < self.n_results and not part):
            hint = "it is cut, or a part: import a part with --part" if n < self.n_results else "give the right card"
            raise MismatchError(f"{self._path}: {n:,} features, and the card speaks of {self.n_results:,}: {hint}")


def origins_of(path: Path, card: dict[str, Any], n_rows: int) -> Origins:
    """Return the manifest to store the label set under. It has the form of a gathering pass and says imported."""
    digest = _sha256(path)
    manifest = {
        **HEAD,
        "hash": hashlib.sha256(f"imported:{digest}".encode()).hexdigest()[:16],
        "created_at": card["evidence"]["created_at"],
        **{name: card[name] for name in ("subject", "hookpoint", "reads", "sae", "corpus")},
        **({BY_OTHERS: card[BY_OTHERS]} if card.get(BY_OTHERS) else {}),
        "config": card["gathering"],
        "splits": {name: card["splits"][name] for name in ("explain", "held_out")},
        "quality": card["sae_quality"],
        **({"self_check": card["self_check"]} if card.get("self_check") else {}),
        "seconds": None,
        "versions": card["evidence"]["versions"],
        "imported": {
            "file": path.name,
            "sha256": digest,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "with": f"labeler {__version__}",
            "features": n_rows,
            "card": card,
        },
    }
    created_at = in_utc(datetime.fromisoformat(card["created_at"]))
    return Origins(manifest, path.name, card["recipe"], card["explainer"], card["simulator"], created_at)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
