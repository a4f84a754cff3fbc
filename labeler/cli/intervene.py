"""The command that changes the subject: intervene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import app
from labeler.cli.options import Json, gather_progress, quoted, say
from labeler.errors import MismatchError

if TYPE_CHECKING:
    from labeler.evidence.store import EvidenceFolder
    from labeler.evidence.target import Target
    from labeler.subject.model import Subject


@app.command()
def intervene(
    evidence: Annotated[Path, typer.Argument(help="A folder written by `labeler gather`.")],
    features: Annotated[str, typer.Option(metavar="SPEC", help="`all`, `0-999`, `1,5,9` or `@FILE`.")],
    kl: Annotated[
        float, typer.Option(min=0.001, help="How much a feature changes the next token, in nats: decides how far it is turned up.")
    ] = 0.5,
    prompts: Annotated[int, typer.Option(min=4, help="Prompts that the subject writes after.")] = 16,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens written after each.")] = 24,
    subject: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Where the subject is now. Default: where it was gathered from.")
    ] = None,
    sae: Annotated[str | None, typer.Option(help="Where the SAE is now. Default: where it was gathered from.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: cuda where there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Decides prompts, controls and what is sampled.")] = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Let the subject write with each feature turned up: the material of the `intervention` scorer.

    What is written stays in the evidence folder; features that are there already are not done again.
    """
    from labeler.evidence.store import EvidenceFolder
    from labeler.score.intervention.texts import SteerConfig
    from labeler.selection import parse_features

    config = SteerConfig(target_kl=kl, n_prompts=prompts, new_tokens=new_tokens, seed=seed)
    folder = EvidenceFolder(evidence)
    wanted = parse_features(features, folder.n_features)
    loaded, target = _load(folder, subject, sae, device)
    from labeler.score.intervention.steer import steer_features

    with gather_progress() as on_progress:
        out = steer_features(
            loaded, target, folder, wanted, config, lambda done, total: on_progress("intervene", done, total)
        )
    without = [f for f in wanted if (texts := out.read(f)) is not None and texts.texts is None]
    if as_json:
        typer.echo(json.dumps({"steered": str(out.folder), "features": len(wanted), "without_texts": without}))
        return
    say(f"{len(wanted) - len(without):,} of {len(wanted):,} features were turned up to {kl:g} nats: {out.folder}")
    say(f"Next: label {quoted(evidence)} with a recipe that has the scorer `intervention`.")


def _load(folder: EvidenceFolder, subject: str | None, sae: str | None, device: str | None) -> tuple[Subject, Target]:
    """The subject and the SAE that the evidence was gathered with. Raises MismatchError for others."""
    from labeler.evidence.target import choose_target, neurons
    from labeler.sae import load_sae
    from labeler.subject.model import load_subject

    manifest = folder.manifest
    known = manifest["subject"]
    loaded = load_subject(
        subject or known["id"], revision=None if subject else _hub_revision(known["revision"]), dtype=known["dtype"],
        device=device,
    )  # fmt: skip
    if loaded.revision != known["revision"]:
        raise MismatchError(
            f"subject {loaded.id} is {loaded.revision}, and the evidence was gathered with {known['revision']}: "
            "give that one with --subject"
        )
    path = sae or manifest["sae"]["path"]
    read = (
        neurons(loaded, manifest["hookpoint"])
        if manifest["sae"]["format"] == "neurons"
        else load_sae(path, hookpoint=manifest["hookpoint"], device=loaded.device)
    )
    if read.source.sha256 != manifest["sae"]["sha256"]:
        raise MismatchError(f"SAE {path} has another sha256 than the one the evidence was gathered with: give --sae")
    return loaded, choose_target(loaded, read, manifest["hookpoint"])


def _hub_revision(revision: str) -> str | None:
    """The hub commit to load; a local folder's hash names no commit."""
    return None if revision.startswith("sha256:") else revision
