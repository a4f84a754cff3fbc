"""Read the manifest of an evidence folder, check all that readers rely on, and write it with its own digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from labeler.errors import DamagedError, FormatError, NotFoundError
from labeler.evidence.format import HEAD, SPLITS
from labeler.evidence.hashes import HASH_BYTES, as_damage, seal
from labeler.files import read_json, write_json

MANIFEST = "manifest.json"
_MOST_FEATURES = 1 << 31  # features are 32-bit numbers on disk
_MOST = 1 << 62
_LONGEST_WINDOW = 256  # places in a window are kept in a byte

# What readers take unchecked: the path of each entry, and its type or its lowest and highest value.
_ENTRIES: dict[str, type | tuple[int, int]] = {
    "hash": str,
    "created_at": str,
    "hookpoint": str,
    "reads": str,
    "versions": dict,
    "quality": dict,
    "subject": dict,
    "subject.id": str,
    "sae": dict,
    "sae.path": str,
    "sae.sha256": str,
    "sae.n_features": (1, _MOST_FEATURES),
    "corpus": dict,
    "corpus.spec": str,
    "corpus.fingerprint": str,
    "corpus.n_tokens": (1, _MOST),
    "config": dict,
    "config.window_tokens": (1, _LONGEST_WINDOW),
    "config.seed": (-_MOST, _MOST),
    "config.n_top": list,
    "splits": dict,
    **{f"splits.{split}": dict for split in SPLITS},
    **{f"splits.{split}.n_windows": (0, _MOST) for split in SPLITS},
}
_PRESENT = ("subject.revision", "sae.format", "sae.architecture", "sae.d_in", "quality.explained_variance")  # any value
_TYPES: dict[type, str] = {str: "a text", dict: "an object", list: "a list"}


def write_manifest(folder: Path, manifest: dict[str, Any], *, with_hashes: bool = True) -> None:
    """Write the manifest with its own digest, and with the hashes of all files that it does not name yet.

    The hashes go to a new file, and then the manifest that names it is replaced. So a killed process leaves the old
    pair or the new one. Without `with_hashes` the files stay as unchecked as they are.
    """
    manifest = {key: value for key, value in manifest.items() if key != "digest"}
    if with_hashes:
        manifest["files"] = seal(folder, manifest.get("files"))
    write_json(folder / MANIFEST, {**manifest, "digest": digest_of(manifest)})
    if with_hashes:
        for old in folder.glob("hashes-*.npy"):
            if old.name != manifest["files"]["hashes"]:
                old.unlink()


def rewrite_manifest(folder: Path, **changed: Any) -> None:
    """Change entries of a finished folder's manifest, and add hashes of files that have come since.

    Evidence of earlier versions stays without hashes: no one knows what happened to it until now.
    """
    manifest = read_manifest(folder)
    write_manifest(folder, {**manifest, **changed}, with_hashes=has_hashes(manifest))


def has_hashes(manifest: dict[str, Any]) -> bool:
    """Return True if damage to the files can be seen: evidence of earlier versions has no hashes."""
    return "files" in manifest


def is_listed(folder: Path, name: str) -> bool:
    """Return True if an optional file is there and, in finished evidence with hashes, is covered by them."""
    if not (folder / name).exists():
        return False
    if not (folder / MANIFEST).exists():
        return True
    manifest = read_manifest(folder)
    return not has_hashes(manifest) or name in manifest["files"]["of"]


def digest_of(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[: 2 * HASH_BYTES]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest.

    Raises NotFoundError without finished evidence, DamagedError or FormatError naming the manifest.
    """
    if folder.is_file():
        what = "this is a database" if folder.suffix == ".db" else "this is a file"
        raise NotFoundError(f"evidence {folder}: {what}; give the folder that `labeler gather` has written")
    if not folder.is_dir():
        raise NotFoundError(f"evidence {folder}: no such folder; make one with `labeler gather`")
    if not (folder / MANIFEST).exists():
        raise NotFoundError(_without_manifest(folder))
    with as_damage(folder, MANIFEST):
        manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise DamagedError(folder, MANIFEST, f"expected a JSON object, found {type(manifest).__name__}")
    if any(manifest.get(key) != value for key, value in HEAD.items()):
        raise FormatError(
            f"evidence {folder}: manifest.json says format {str(manifest.get('format'))[:80]!r} version "
            f"{str(manifest.get('version'))[:80]}; this version reads {HEAD['format']!r} version {HEAD['version']}; gather again"
        )
    _check_digest(folder, manifest)
    if (problem := _problem(manifest)) is not None:
        raise DamagedError(folder, MANIFEST, problem)
    return manifest


def _without_manifest(folder: Path) -> str:
    if any(folder.glob("hashes-*.npy")):
        return f"evidence {folder}: manifest.json is missing, though the evidence was finished; bring back a copy of it"
    if (folder / "plan.json").exists():
        return (
            f"evidence {folder}: the gathering pass is not finished; run the same `labeler gather` again to continue it "
            "(or `labeler merge` once all shards are done)"
        )
    return f"evidence {folder}: no manifest.json there; give a folder that `labeler gather` has written"


def _check_digest(folder: Path, manifest: dict[str, Any]) -> None:
    if "digest" not in manifest and "files" not in manifest:
        if any(folder.glob("hashes-*.npy")):
            raise DamagedError(folder, MANIFEST, "it names no hashes, though the folder has them")
    elif manifest.get("digest") != digest_of(manifest):
        raise DamagedError(folder, MANIFEST, "it does not fit its own digest, so that something in it was changed")


def _problem(manifest: dict[str, Any]) -> str | None:
    for path, expected in _ENTRIES.items():
        found = _at(manifest, path)
        if isinstance(expected, type):
            if not isinstance(found, expected):
                return f"{path}: expected {_TYPES[expected]}, found {_short(found)}"
        elif not (isinstance(found, int) and not isinstance(found, bool) and expected[0] <= found <= expected[1]):
            return f"{path}: expected a whole number of {expected[0]:,} to {expected[1]:,}, found {_short(found)}"
    for path in _PRESENT:
        if _at(manifest, path) is _MISSING:
            return f"{path}: this entry is missing"
    n_top = manifest["config"]["n_top"]
    if len(n_top) != len(SPLITS) or not all(isinstance(n, int) for n in n_top):
        return f"config.n_top: expected a number for each split, found {_short(n_top)}"
    return _problem_of_files(manifest["files"]) if "files" in manifest else None


def _problem_of_files(files: Any) -> str | None:
    """Describe what is wrong with "files".

    The digest has been compared, so another program has written what is found here.
    """
    try:
        sized = all(n >= header >= 0 and bytes.fromhex(digest) for n, header, digest in files["of"].values())
        if sized and isinstance(files["hashes"], str):
            return None
    except (TypeError, KeyError, ValueError, AttributeError):
        pass
    return "files: expected the sizes and the hash of each file"


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def _at(manifest: Any, path: str) -> Any:
    for key in path.split("."):
        manifest = manifest.get(key, _MISSING) if isinstance(manifest, dict) else _MISSING
    return manifest


def _short(value: Any) -> str:
    return repr(value)[:80]
