"""`labeler saes` lists what can be read in a repository, a folder or a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labeler.cli.app import app
from labeler.cli.options import Json, quoted, say
from labeler.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from labeler.published.listing import Listing

_EXPECTED = "give OWNER/REPO, hf:OWNER/REPO/PATH, a folder, or sae-lens:RELEASE"
_MOST_FILES = 20_000  # of a folder
_MOST_EXAMPLES, _MOST_REASONS = 3, 20


@app.command()
def saes(
    where: Annotated[
        str,
        typer.Argument(
            metavar="WHERE",
            help="A repository OWNER/REPO or hf:OWNER/REPO/PATH@REVISION, a folder, or sae-lens:RELEASE.",
        ),
    ],
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORD", help="List only SAEs whose names hold all of these words.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="List at most this many SAEs.")] = 50,
    as_json: Json = False,
) -> None:
    """List the SAEs in a repository or folder: how to name them, where they read, width and L0.

    Names, small configurations and the headers of files are read, and no weights.
    """
    found = _listing(where, words or [], limit)
    if as_json:
        typer.echo(json.dumps(_as_json(where, found)))
        return
    for line in _lines(where, words or [], found):
        say(line)


def _listing(where: str, words: list[str], limit: int) -> Listing:
    from labeler.places import is_hub_name, sae_on_hub
    from labeler.published.hub import open_repository
    from labeler.published.listing import Folder, folder_origin, list_saes

    if not where.strip():
        raise InputError(f"{where!r}: {_EXPECTED}")
    folder = Path(where).expanduser()
    if where.startswith("sae-lens:"):
        from labeler.sae.registry import registered_in

        entries = registered_in(where)
        ids = {entry.sae_id: entry.path for entry in entries}
        repository = open_repository(entries[0].repository, None, where)
        spelling = f"{where.rstrip('/')}{{}}"
        return list_saes(repository, spelling, repository.name, words=words, most=limit, what=where, ids=ids)
    if not where.startswith("hf:") and folder.exists():
        within = folder if folder.is_dir() else folder.parent
        files = Folder(within, _sizes(within, where))
        path = "" if folder.is_dir() else folder.name
        spelling = f"{within.as_posix().rstrip('/')}{{}}"
        return list_saes(files, spelling, folder_origin(within), path, words=words, most=limit, what=where)
    name = where if where.startswith("hf:") else f"hf:{where}"
    if not where.startswith("hf:") and (
        "/" not in where
        or where.startswith(("/", ".", "~"))
        or not is_hub_name("/".join(where.partition("@")[0].split("/")[:2]))
    ):
        raise NotFoundError(f"{where!r}: no folder here, and no repository; {_EXPECTED}")
    repo, path_there, revision = sae_on_hub(name.rstrip("/"))
    repository = open_repository(repo, revision, where)
    spelling = f"hf:{repo}{{}}{f'@{revision}' if revision else ''}"
    return list_saes(repository, spelling, repo, path_there or "", words=words, most=limit, what=where)


def _sizes(folder: Path, where: str) -> dict[str, int | None]:
    from labeler.places import is_hidden

    sizes: dict[str, int | None] = {}
    # A virtual environment in a hidden folder has files that end as weights do.
    shown = (path for path in sorted(folder.rglob("*")) if not is_hidden(path.relative_to(folder)))
    for n, path in enumerate(shown):
        if n >= _MOST_FILES:
            raise InputError(f"{where}: holds over {_MOST_FILES:,} files; name a folder within it")
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    return sizes


def _as_json(where: str, found: Listing) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "where": where,
        "n_found": found.n_found,
        "saes": [{k: v for k, v in asdict(sae).items() if k != "refused"} for sae in found.saes],
        "sets": [{"sae": sae, "layers": list(layers)} for sae, layers in found.sets.items()],
        "not_read": [{"reason": reason, "n": len(names), "first": names[0]} for reason, names in found.refused.items()],
    }


def _lines(where: str, words: list[str], found: Listing) -> list[str]:
    from labeler.terminal import visible

    rows = [("PLACE", "FEATURES", "L0", "FORMAT", "SAE")]
    rows += [
        (s.place or "", f"{s.n_features:,}" if s.n_features else s.width, s.l0, s.format, quoted(s.sae))
        for s in found.saes
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = []
    if found.saes:
        lines += [
            visible(
                "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip()
            )
            for row in rows
        ]
    lines += _below(where, words, found)
    if found.saes:
        first = quoted(found.saes[0].sae)
        lines.append(f"Next: labeler gather --sae {first} --subject MODEL --corpus TEXTS --out EVIDENCE")
    return [visible(line) for line in lines]


def _below(where: str, words: list[str], found: Listing) -> list[str]:
    """Say what the table is of, what belongs together, and what is not read."""
    from labeler.numbers import ranges

    named = f" with {' and '.join(map(repr, words))} in the name" if words else ""
    lines = [""] if found.saes else []
    if found.n_found > found.n_looked_at:
        lines.append(
            f"{found.n_found:,} SAEs{named} in {where}, of which these are the first {found.n_looked_at:,}: --limit N lists more, and "
            f"words choose, such as `labeler saes {quoted(where)} layer_12`"
        )
    else:
        lines.append(f"{found.n_found or 'no'} SAE{'' if found.n_found == 1 else 's'}{named} in {where}")
    for sae, layers in list(found.sets.items())[:_MOST_EXAMPLES]:
        lines.append(
            f"layers {ranges(layers)} belong together: --sae {quoted(sae)} gathers all, and --layers {layers[0]} with it only one"
        )
    for reason, names in list(found.refused.items())[:_MOST_REASONS]:
        shown = ", ".join(names[:_MOST_EXAMPLES]) + (", ..." if len(names) > _MOST_EXAMPLES else "")
        lines.append(f"not read ({len(names):,}): {reason}: {shown}")
    return lines
