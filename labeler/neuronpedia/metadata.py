"""The plain files of a tree: the types and models that its rows name, and the facts of the source."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from labeler.names import with_names
from labeler.neuronpedia.layout import BOT, Place, time_text
from labeler.neuronpedia.rows import LOOKUP_MODEL, OURS, Row
from labeler.places import spelled_hookpoint
from labeler.recipe import EXPLAINERS
from labeler.store import LabelSetInfo

_CREATOR = "labeler"


@dataclass
class NamesUsed:
    """The types and models that the rows name, which the config folder must list."""

    types: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    score_types: set[str] = field(default_factory=set)
    score_models: set[str] = field(default_factory=set)


def write_config(folder: Path, used: NamesUsed) -> None:
    folder.mkdir(parents=True)
    described = {
        "explanation_type": (used.types or {OURS + EXPLAINERS["lookup"]}, _about_type, True),
        "explanation_model_type": (used.models or {LOOKUP_MODEL}, _about_model, False),
        "explanation_score_type": (used.score_types or {OURS + "simulation"}, _about_score, True),
        "explanation_score_model": (used.score_models or {LOOKUP_MODEL}, _about_model, False),
    }
    for name, (found, about, owned) in described.items():
        _write_lines(
            folder / f"{name}.jsonl",
            [
                {"name": n, "displayName": n, "description": about(n), "featured": False, "creatorName": _CREATOR}
                | ({"creatorId": BOT} if owned else {})
                for n in sorted(found)
            ],
        )


def _about_type(name: str) -> str:
    return f"labeler, prompt {name.removeprefix(OURS)}" if name.startswith(OURS) else name


def _about_model(name: str) -> str:
    return "No language model: the mean activation of each token." if name == LOOKUP_MODEL else name


def _about_score(name: str) -> str:
    if not name.startswith(OURS):
        return name
    return (
        f"labeler's score `{name.removeprefix(OURS)}` on documents that the explainer never saw; interval, null and baseline "
        "are in its details."
    )


def write_metadata(base: Path, place: Place, manifest: dict[str, Any], info: LabelSetInfo) -> None:
    manifest = with_names(manifest)  # others read this file, so it has no paths of this machine
    created = time_text(info.created_at)
    owned = {"creatorId": BOT, "visibility": "PUBLIC", "createdAt": created}
    release = f"labeler-{place.model}-{place.set}"
    hookpoint = spelled_hookpoint(manifest["hookpoint"], manifest["reads"])
    about = f"{manifest['sae']['architecture']} SAE at {hookpoint} of {manifest['subject']['id']}"
    facts = {
        "hash": manifest["hash"],
        "subject": manifest["subject"],
        "hookpoint": manifest["hookpoint"],
        "reads": manifest["reads"],
        "sae": manifest["sae"],
        "corpus": manifest["corpus"],
    }
    lines: dict[str, Row] = {
        "release": {"name": release, "description": about, "creatorName": _CREATOR, **owned},
        # Their own export writes zero for an unknown size.
        "model": {
            "id": place.model,
            "displayName": place.model,
            "displayNameShort": place.model,
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": "",
            "dimension": manifest["subject"]["hidden_size"],
            **owned,
        },
        "sourceset": {
            "modelId": place.model,
            "name": place.set,
            "description": about,
            "creatorName": _CREATOR,
            "releaseName": release,
            "urls": [],
            **owned,
        },
        "source": {
            "id": place.source,
            "modelId": place.model,
            "setName": place.set,
            "dataset": manifest["corpus"]["spec"],
            "num_prompts": manifest["corpus"]["n_sequences"],
            "num_tokens_in_prompt": manifest["config"].get("sequence_tokens"),
            "notes": json.dumps({"labeler": facts}, ensure_ascii=False),
            **owned,
        },
    }
    for name, line in lines.items():
        _write_lines(base / f"{name}.jsonl", [line])


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
