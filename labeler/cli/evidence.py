"""Commands that make evidence: gather, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import app, stoppable
from labeler.cli.options import Json, check_out_folder, gather_progress, quoted, same_command, say
from labeler.errors import InputError, NotFoundError
from labeler.evidence.progress import step

if TYPE_CHECKING:
    from labeler.evidence.target import Target
    from labeler.subject.model import Subject


_MOST_LAYERS = 10_000


@app.command()
def gather(
    subject: Annotated[str, typer.Option(help="A transformers model: a local folder or a hub id.")],
    sae: Annotated[
        list[str],
        typer.Option(
            metavar="SAE",
            help="An SAE: a file or folder, `hf:REPO/PATH`, `sae-lens:RELEASE/ID`, or `neurons`. Given several times, all "
            "SAEs share one forward pass, as do the layers of a folder that holds a set.",
        ),
    ],
    corpus: Annotated[
        str, typer.Option(help="A folder of text, a .txt, .jsonl, .parquet or .npy file, `python-stdlib`, `hf:NAME`.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="EVIDENCE",
            help="The evidence folder to write, or to continue; with several SAEs, it gets a folder for each.",
        ),
    ],
    hookpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Module path that the SAE reads; once, or once for each SAE. Default: the one in the SAE's file.",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="Of a folder with a file for each layer, such as a cross-layer transcoder, read only these: 0-3,7. "
            "Default: all.",
        ),
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after this many corpus tokens.")] = None,
    text_field: Annotated[str, typer.Option(help="The text column of a .jsonl or .parquet corpus.")] = "text",
    revision: Annotated[str | None, typer.Option(help="The subject's hub revision.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for the subject and the encoder.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: cuda where there is one.")] = None,
    sequence_tokens: Annotated[int, typer.Option(min=32, help="Tokens the subject reads at a time.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the split and the samples.")] = 0,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Read only the I-th of N parts; `labeler merge` joins them.")
    ] = "1/1",
    memory: Annotated[
        int | None,
        typer.Option(
            metavar="MB",
            min=1,
            help="Memory for contexts of each SAE; more than that waits on disk. Default: at most 9 KB per feature.",
        ),
    ] = None,
    neighbours: Annotated[
        bool | None,
        typer.Option(
            "--neighbours/--no-neighbours",
            help="Find the nearest features by decoder direction. Default: up to 131,072 features on a CPU.",
        ),
    ] = None,
    cross_entropy: Annotated[
        int,
        typer.Option(
            metavar="TOKENS",
            min=0,
            help="Measure on this many tokens how much the subject loses with the SAE's reconstruction. 0: skip this.",
        ),
    ] = 0,
    force: Annotated[
        bool,
        typer.Option("--force", help="Gather also where the SAE explains so little that it may read another vector."),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="The names to show: `SUBJECT / SAE`, or only the SAE; once for each SAE. Default: hub ids, or the last folders.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read the corpus once and write down what each feature does: the evidence for its label."""
    from labeler.recipe import GatherConfig
    from labeler.subject.corpus import open_corpus

    config = GatherConfig(n_tokens=tokens, sequence_tokens=sequence_tokens, seed=seed, dtype=dtype)
    cut = _parse_shard(shard)
    chosen = None if layers is None else _parse_layers(layers)
    hookpoints = _hookpoint_of_each(sae, hookpoint or [])
    names = _names_of_each(sae, name or [])
    check_out_folder(out)
    # Before torch, which takes seconds to import, and the subject.
    text = open_corpus(corpus, text_field)
    _check_saes(sae, hookpoints, chosen)
    with stoppable(lambda: _kept(out)), gather_progress() as on_progress:
        with step(on_progress, f"load {subject}"):  # importing torch takes much of this time
            from labeler.evidence.gather_all import gather_for_all
            from labeler.subject.model import load_subject

            loaded = load_subject(subject, revision=revision, dtype=dtype, device=device)
        with step(on_progress, "load the SAE" if len(sae) == 1 else f"load {len(sae)} SAEs"):
            targets = _targets(loaded, sae, hookpoints, chosen, names, dtype, out)
        gather_for_all(
            loaded,
            targets,
            text,
            config,
            shard=cut,
            memory_bytes=memory and memory << 20,
            neighbours=neighbours,
            cross_entropy_tokens=cross_entropy,
            force=force,
            on_progress=on_progress,
        )
    for folder in targets:
        _after_gathering(folder, cut, as_json)


def _check_saes(saes: list[str], hookpoints: list[str | None], layers: set[int] | None) -> None:
    """Raise NotFoundError or InputError for an SAE that is not there, before the subject is loaded."""
    from labeler.bundled import PATHS

    for sae, hookpoint in zip(saes, hookpoints, strict=True):
        if sae == "neurons" or sae in PATHS:
            continue
        if sae.startswith(("hf:", "sae-lens:")):
            from labeler.sae.hub import check_on_hub

            check_on_hub(sae, hookpoint, layers)
        elif not Path(sae).expanduser().exists():
            raise NotFoundError(
                f"SAE {sae!r}: no such file or folder; give a path, `hf:REPO/PATH` or `sae-lens:RELEASE/ID`"
            )


def _kept(out: Path) -> str:
    """Say what a stopped pass leaves in its folder, or in the folders of its SAEs."""
    corpora = [*out.glob("corpus/corpus.json"), *out.glob("*/corpus/corpus.json")]
    checkpoints = [*out.glob("shards/*/checkpoint.json"), *out.glob("*/shards/*/checkpoint.json")]
    if checkpoints:
        return f"all up to the last checkpoint is kept in {out}; the same command goes on from there: {same_command()}"
    if corpora:
        return f"the tokenized corpus is kept in {out}, and the pass itself begins again with the same command: {same_command()}"
    return f"nothing was gathered yet; the same command begins again: {same_command()}"


def _hookpoint_of_each(saes: list[str], hookpoints: list[str]) -> list[str | None]:
    if len(hookpoints) not in (0, 1, len(saes)):
        raise InputError(
            f"--hookpoint is given {len(hookpoints)} times for {len(saes)} SAEs: give it once, or once for each"
        )
    if len(hookpoints) == len(saes):
        return list(hookpoints)
    return [hookpoints[0] if hookpoints else None for _ in saes]


def _names_of_each(saes: list[str], names: list[str]) -> list[dict[str, str] | None]:
    from labeler.names import read_name

    if len(names) not in (0, len(saes)):
        raise InputError(f"--name is given {len(names)} times for {len(saes)} SAEs: give it once for each")
    return [read_name(name) for name in names] or [None for _ in saes]


def _targets(
    subject: Subject,
    saes: list[str],
    hookpoints: list[str | None],
    layers: set[int] | None,
    names: list[dict[str, str] | None],
    dtype: str,
    out: Path,
) -> dict[Path, Target]:
    """Pair each SAE with its evidence folder: `out` itself, or a folder in it for each of several SAEs."""
    from dataclasses import replace

    from labeler.evidence.target import choose_target, folder_names, named_layer, open_saes

    targets = [
        replace(choose_target(subject, opened, hookpoint), names=named_layer(given, opened))
        for sae, hookpoint, given in zip(saes, hookpoints, names, strict=True)
        for opened in open_saes(subject, sae, hookpoint, dtype, layers)
    ]
    if len(targets) == 1:
        return {out: targets[0]}
    return {out / name: target for name, target in zip(folder_names(targets), targets, strict=True)}


def _parse_layers(text: str) -> set[int]:
    """Read `0-3,7`."""
    layers: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not (low.isdecimal() and (high or low).isdecimal() and int(low) <= int(high or low) < _MOST_LAYERS):
            raise InputError(f"--layers {text!r}: expected layers such as 0-3,7")
        layers |= set(range(int(low), int(high or low) + 1))
    return layers


def _parse_shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise InputError(f"--shard {text!r}: expected I/N with 1 <= I <= N, such as 2/8")
    return int(index), int(count)


def _after_gathering(out: Path, shard: tuple[int, int], as_json: bool) -> None:
    from labeler.evidence.merge import is_merged

    if is_merged(out):
        _show_manifest(out, as_json)
    elif as_json:
        typer.echo(json.dumps({"evidence": str(out), "shard": list(shard), "complete": True}))
    else:
        say(f"Shard {shard[0]} of {shard[1]} is done. When all are: labeler merge {quoted(out)}")


@app.command()
def merge(
    evidence: Annotated[Path, typer.Argument(help="The folder given as --out to each `labeler gather --shard`.")],
    shards: Annotated[
        list[Path] | None, typer.Option("--from", help="Shards gathered elsewhere: folders given as --out there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Join the shards of a gathering pass into evidence. If one is missing, the error names it."""
    from labeler.evidence.merge import adopt_shards, merge_shards

    with gather_progress() as on_progress, step(on_progress, "merge"):
        adopt_shards(evidence, shards or [])
        merge_shards(evidence)
    _show_manifest(evidence, as_json)


def _show_manifest(evidence: Path, as_json: bool) -> None:
    from labeler.evidence.store import EvidenceFolder

    manifest = EvidenceFolder(evidence).manifest
    if as_json:
        typer.echo(json.dumps(manifest))
        return
    from labeler.terminal import quality_table, stdout

    say(
        f"Evidence of {manifest['sae']['n_features']:,} features on {manifest['corpus']['n_tokens']:,} tokens: {evidence}"
    )
    stdout().print(quality_table(manifest["quality"]))
    say(f"Next: labeler label {quoted(evidence)}")
