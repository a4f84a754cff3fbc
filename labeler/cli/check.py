"""Commands that check files on disk: check evidence."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.neuronpedia import checks
from labeler.cli.options import Json, gather_progress, quoted, say
from labeler.errors import FormatError


@checks.command("evidence")
def check_evidence(
    evidence: Annotated[Path, typer.Argument(help="A folder written by `labeler gather` or `labeler import`.")],
    as_json: Json = False,
) -> None:
    """Read every file of an evidence folder and compare it with its hashes. The exit code is 2 if one is damaged."""
    from labeler.evidence.check import check_evidence as check
    from labeler.terminal import visible

    with gather_progress() as on_progress:
        found = check(evidence, on_progress)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "evidence": str(evidence),
                    "checked": found.has_hashes,
                    "damaged": len(found.problems),
                    "files": [asdict(file) for file in found.files],
                }
            )
        )
    else:
        for file in found.files:
            say(
                visible(
                    f"{'damaged' if file.problem else 'ok':>7}  {file.file}"
                    + (f": {file.problem}" if file.problem else "")
                )
            )
    if found.problems:
        n = len(found.problems)
        raise FormatError(
            f"evidence {evidence}: {n} of {len(found.files)} files {'is' if n == 1 else 'are'} damaged, first {found.problems[0].file}; "
            "gather again into a new folder, or restore it from a copy. Features stored in other blocks can be labeled"
        )
    if as_json:
        return
    n_bytes = sum(file.n_bytes for file in found.files)
    if found.has_hashes:
        say(
            f"{len(found.files)} files, {n_bytes:,} bytes: all match the hashes of the gathering pass. Next: labeler label {quoted(evidence)}"
        )
    else:
        say(
            f"{len(found.files)} files, {n_bytes:,} bytes, unchecked: an earlier version gathered this evidence and wrote no hashes. "
            "Its values are possible, but nothing can show that they are the ones that were gathered"
        )
