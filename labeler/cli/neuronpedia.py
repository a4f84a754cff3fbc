"""Commands for Neuronpedia's formats: import neuronpedia, import saedashboard, check neuronpedia."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from labeler.cli.app import Words, app
from labeler.cli.imports import imports
from labeler.cli.options import Database, Json, quoted, say, store_at
from labeler.cli.where import database_of, db_words
from labeler.errors import FormatError

checks = Words(help="Check files against their format or their hashes.", no_args_is_help=True)
app.add_typer(checks, name="check")

Out = Annotated[Path, typer.Option(metavar="EVIDENCE", help="The evidence folder to write.")]
Window = Annotated[
    int | None,
    typer.Option(min=4, max=255, help="Cut longer contexts to this many tokens around their peak. Default: no cut."),
]


@imports.command("neuronpedia")
def import_neuronpedia(
    tree: Annotated[Path, typer.Argument(help="A folder of Neuronpedia's import or export format, or a source in it.")],
    out: Out,
    window: Window = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Store its explanations and scores as label sets.")
    ] = True,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Read contexts that others gathered as evidence: TOP ones to explain from, activation intervals to score on."""
    from labeler.neuronpedia.labels import check_labels, save_labels
    from labeler.neuronpedia.read import find_tree, read_tree

    found = find_tree(tree)
    if labels:
        check_labels(found)  # errors come now, before anything is written
    manifest = read_tree(found, out, window)
    sets = save_labels(store_at(db, out, make=True), found, out) if labels else {}
    _tell(manifest, out, sets, db, as_json)


@imports.command("saedashboard")
def import_saedashboard(
    folder: Annotated[
        Path, typer.Argument(help="The folder of batch-<n>.json that SAEDashboard's neuronpedia runner wrote.")
    ],
    out: Out,
    window: Window = None,
    as_json: Json = False,
) -> None:
    """Read SAEDashboard's contexts as evidence: TOP ones to explain from, activation intervals to score on."""
    from labeler.neuronpedia.dashboards import read_dashboards

    _tell(read_dashboards(folder, out, window), out, {}, None, as_json)


def _tell(manifest: dict[str, Any], out: Path, sets: dict[int, int], db: str | None, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"evidence": str(out), "manifest": manifest, "label_sets": sets}))
        return
    splits = manifest["splits"]
    say(
        f"Evidence of {manifest['sae']['n_features']:,} features: {splits['explain']['n_windows']:,} contexts to explain from, "
        f"{splits['held_out']['n_windows']:,} held out: {out}"
    )
    for label_set, n in sets.items():
        say(f"{n:,} labels are label set {label_set}, marked as made by others")
    say("The source does not say: " + "; ".join(manifest["by_others"]["absent"]))
    say(f"Next: labeler label {quoted(out)}{db_words(database_of(db, out), out)}")


@checks.command("neuronpedia")
def check_neuronpedia(
    tree: Annotated[Path, typer.Argument(help="The folder that holds v1/.")],
    most: Annotated[int, typer.Option(min=1, help="Stop after this many problems.")] = 50,
    as_json: Json = False,
) -> None:
    """Check if Neuronpedia's import would read this tree.

    Each problem is shown with its file, line and rule. The exit code is 2 if there is one.
    """
    from labeler.neuronpedia.check import check_tree, summary
    from labeler.terminal import visible

    checked = check_tree(tree, most)
    if as_json:
        problems = [{"rule": p.rule, "file": str(p.file), "line": p.line, "what": p.what} for p in checked.problems]
        typer.echo(json.dumps({"rows": checked.rows, "problems": problems}))
    else:
        for problem in checked.problems:
            typer.echo(visible(str(problem)))
    if checked.problems:
        n = len(checked.problems)
        found = f"{n} or more problems" if n == most else "1 problem" if n == 1 else f"{n} problems"
        raise FormatError(f"{tree}: {found} in {summary(checked.rows)}")
    if not as_json:
        say(f"{tree}: {summary(checked.rows)}, valid for Neuronpedia's import")
