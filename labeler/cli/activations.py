"""`labeler activations TEXT --sae ID` shows which features fire on a text.

A running service answers it, or this process reads the text itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labeler.cli.app import app
from labeler.cli.options import Database, Json, Url, say, store_at

if TYPE_CHECKING:
    from labeler.store import Store

_SHOWN = 3  # features shown per token


@app.command()
def activations(
    text: Annotated[str, typer.Argument(help="The text to read; `-` reads it from standard input.")],
    sae: Annotated[str, typer.Option(metavar="ID", help="The SAE's id, as `labeler sets` and the service list it.")],
    db: Database = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show which features fire on each token of a text, with their labels."""
    text = sys.stdin.read() if text == "-" else text
    found = _here(store_at(db), sae, text) if url is None else _there(url, sae, text)
    if as_json:
        say(json.dumps(found, default=str))
        return
    from labeler.terminal import visible

    labels = {f["feature_index"]: f["label"] for f in found["features"] if f["label"]}
    for token in _in_characters(found["tokens"]):
        text = f"'{visible(token['token'])}'"
        say(f"{text:<20} {token['n_firing']:>6} fire")
        for firing in token["top"][:_SHOWN]:
            feature = firing["feature_index"]
            label = labels.get(feature)
            text = "(no label)" if label is None else f"{visible(label['label'])}  (set {label['label_set_id']})"
            say(f"  {firing['activation']:10.3f}  {found['sae']}/{feature}  {text}")


def _in_characters(tokens: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the tokens as people read them: those joined that only together are characters, other bytes as `\\xe3`."""
    from labeler.subject.vocabulary import character_spans

    pieces = [bytes.fromhex(t["bytes"]) if t.get("bytes") else t["token"].encode("utf-8", "replace") for t in tokens]
    for span in character_spans(pieces):
        parts = tokens[span.start : span.end]
        top = sorted((f for t in parts for f in t["top"]), key=lambda f: (-f["activation"], f["feature_index"]))
        strongest = {f["feature_index"]: f for f in reversed(top)}  # each feature once, at its highest
        text = b"".join(pieces[span.start : span.end]).decode("utf-8", errors="backslashreplace")
        yield {
            "token": text,
            "n_firing": max(len(strongest), *(t["n_firing"] for t in parts)),
            "top": [f for f in top if strongest[f["feature_index"]] is f],
        }


def _there(url: str, sae: str, text: str) -> dict[str, Any]:
    from labeler.client import Client

    with Client(url) as client:
        return client.activations(client.sae(sae).id, text).model_dump(mode="json")


def _here(store: Store, sae: str, text: str) -> dict[str, Any]:
    """Read the text in this process, with the subject and the SAE of the newest evidence."""
    from pathlib import Path

    from labeler.evidence.activations import describe_activations, read_text
    from labeler.evidence.gathered import open_gathered
    from labeler.recipe import GatherConfig
    from labeler.store.jobs.activations import readable_evidence
    from labeler.store.label_sets.catalogue import find_sae
    from labeler.subject.vocabulary import Vocabulary
    from labeler.views import joined_activations

    evidence = readable_evidence(store, find_sae(store, sae).id)
    manifest, path = store.evidence(evidence.id)
    config = GatherConfig.from_dict(manifest["config"])
    subject, target = open_gathered(manifest)
    found = read_text(subject, target, config, text)
    answer = describe_activations(found, Vocabulary(Path(path)))
    return {"sae": evidence.sae_id, "text": text, **joined_activations(store, evidence.sae_id, answer)}
