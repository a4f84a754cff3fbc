"""Name subjects, SAEs and corpora so that people recognize them: hub ids, or the last folders of paths.

Names are only for reading. A result depends on the SHA-256 of weights and the hash of evidence, and on no name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from labeler.errors import InputError

LONGEST_NAME = 200
_MOST_PARTS = 3
_HUB_CACHE = re.compile(
    r"(?:^|.*/)(?:models|datasets)--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/[^/]+(?P<rest>/.*)?"
)
_WEIGHTS = frozenset(
    (
        "sae_weights.safetensors",
        "sae.safetensors",
        "ae.pt",
        "params.npz",
        "cfg.json",
        "config.json",
        "model.safetensors",
    )
)
# Folders that say what is in them, but not whose it is: the folder above belongs to the name.
_PLAIN = re.compile(
    r"(?:subjects?|models?|saes?|hf|final|best|last|latest|out|output|weights|checkpoints?(?:[-_]\d+)?|step[-_]?\d+|trainer[-_]?\d+|"
    r"(?:[\w.]*\.)?(?:layers?|blocks|h)[._-]?\d+(?:[._]\w+)*|width_\w+|average_\w+|canonical|\d+(?:\.pt)?|(?:W_enc|layer|params_layer)_\d+\.safetensors|[0-9a-f]{32,64})",
    re.IGNORECASE,
)


def subject_name(subject: str) -> str:
    """Return `EleutherAI/pythia-70m` as it is, `/data/models/smollm2` as `smollm2`."""
    return _short(subject)


def sae_name(path: str) -> str:
    """Return `/data/sae19/sae_weights.safetensors` as `sae19`; `hf:` and `sae-lens:` names without their beginning."""
    for kind in ("hf:", "sae-lens:"):
        if path.startswith(kind):
            return path.removeprefix(kind)
    folder, _, file = path.replace("\\", "/").rpartition("/")
    return _short(folder if folder and file in _WEIGHTS else path)


def corpus_name(spec: str) -> str:
    """Return a corpus as it was named, and only the end of a path."""
    return _short(spec)


def _short(path: str) -> str:
    path = path.replace("\\", "/")
    if (cached := _HUB_CACHE.fullmatch(path)) is not None:
        return f"{cached['owner']}/{cached['name']}{(cached['rest'] or '').rstrip('/')}"
    parts = [part for part in path.split("/") if part not in ("", ".", "..", "~")]
    is_place = path.startswith(("/", "~", ".")) or re.match(r"[A-Za-z]:/", path) is not None
    if not is_place and len(parts) <= 2:  # a hub id, a keyword, or a short path
        return "/".join(parts) or path
    n = 1
    while n < min(_MOST_PARTS, len(parts)) and _PLAIN.fullmatch(parts[-n]):
        n += 1
    return "/".join(parts[-n:]) or "unnamed"


def read_name(name: str | None) -> dict[str, str] | None:
    """Read `SUBJECT / SAE`, or only the SAE's name, as a manifest keeps it. Raises InputError."""
    if name is None:
        return None
    parts = [part.strip() for part in name.split(" / ")]
    if len(parts) > 2 or not all(parts) or len(name) > LONGEST_NAME or not name.isprintable():
        raise InputError(
            f"name {name[:80]!r}: expected `SUBJECT / SAE`, such as `smollm2 / sae19`, or the SAE's name alone, "
            f"in one line of at most {LONGEST_NAME} characters"
        )
    if any(part.startswith(("/", "~")) for part in parts):
        raise InputError(f"name {name[:80]!r}: a name is what people say, and no path: such as `smollm2 / sae19`")
    return dict(zip(("subject", "sae")[-len(parts) :], parts, strict=True))


def names_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a manifest's subject and SAE: the given ones, else those from its ids and paths."""
    given = manifest.get("names") or {}
    return {
        "subject": given.get("subject") or subject_name(str(manifest["subject"]["id"])),
        "sae": given.get("sae") or sae_name(str(manifest["sae"]["path"])),
    }


def with_names(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest for other readers: names in place of paths on this machine."""
    names, shown = names_of(manifest), {**manifest}
    shown["subject"] = {**manifest["subject"], "id": names["subject"]}
    shown["sae"] = {**manifest["sae"], "path": names["sae"]}
    corpus = manifest.get("corpus")
    if isinstance(corpus, Mapping) and isinstance(corpus.get("spec"), str):
        shown["corpus"] = {**corpus, "spec": corpus_name(corpus["spec"])}
    return shown
