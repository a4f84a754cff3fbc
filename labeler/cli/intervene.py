"""The command that changes the subject: intervene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.app import app
from labeler.cli.options import Json, gather_progress, quoted, say
from labeler.evidence.progress import step


@app.command()
def intervene(
    evidence: Annotated[Path, typer.Argument(help="A folder written by `labeler gather`.")],
    features: Annotated[str, typer.Option(metavar="SPEC", help="`all`, `0-999`, `1,5,9` or `@FILE`.")],
    kl: Annotated[
        float,
        typer.Option(
            min=0.001,
            help="Turn each feature up until it changes the next token by this much (KL divergence, in nats).",
        ),
    ] = 0.5,
    prompts: Annotated[int, typer.Option(min=4, help="Prompts that the subject continues.")] = 16,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens written after each prompt.")] = 24,
    subject: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The subject's present place. Default: the one it was gathered from."),
    ] = None,
    sae: Annotated[
        str | None, typer.Option(help="The SAE's present place. Default: the one it was gathered from.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: cuda where there is one.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of prompts, controls and samples.")] = 0,
    as_json: Json = False,
) -> None:
    """Let the subject write with each feature turned up: the material of the `intervention` scorer.

    The texts are kept in the evidence folder. Features that have texts there are not done again.
    """
    from labeler.evidence.steered import SteerConfig
    from labeler.evidence.store import EvidenceFolder
    from labeler.selection import parse_features

    config = SteerConfig(target_kl=kl, n_prompts=prompts, new_tokens=new_tokens, seed=seed)
    folder = EvidenceFolder(evidence)
    wanted = parse_features(features, folder.n_features)
    with gather_progress() as on_progress:
        with step(on_progress, "load the subject and the SAE"):
            from labeler.evidence.gathered import open_gathered
            from labeler.score.intervention.steer import steer_features

            loaded, target = open_gathered(folder.manifest, subject=subject, sae=sae, device=device)
        out = steer_features(
            loaded, target, folder, wanted, config, lambda done, total: on_progress("intervene", done, total)
        )
    without = [f for f in wanted if (texts := out.read(f)) is not None and texts.texts is None]
    if as_json:
        typer.echo(json.dumps({"steered": str(out.folder), "features": len(wanted), "without_texts": without}))
        return
    say(f"{len(wanted) - len(without):,} of {len(wanted):,} features were turned up to {kl:g} nats: {out.folder}")
    say(f"Next: labeler label {quoted(evidence)} --recipe FILE, with a recipe that has the scorer `intervention`.")
