"""Commands that make evidence: gather, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.app import app
from labeler.cli.options import Json, gather_progress, quoted, say
from labeler.errors import InputError


@app.command()
def gather(
    subject: Annotated[str, typer.Option(help="A transformers model: a local folder or a hub id.")],
    sae: Annotated[
        str, typer.Option(help="An SAE: a file or folder, `hf:REPO/PATH`, `sae-lens:RELEASE/ID`, or `neurons`.")
    ],
    corpus: Annotated[
        str, typer.Option(help="A folder of text, a .txt, .jsonl, .parquet or .npy file, `python-stdlib`, `hf:NAME`.")
    ],
    out: Annotated[Path, typer.Option(metavar="EVIDENCE", help="The evidence folder to write, or to continue.")],
    hookpoint: Annotated[
        str | None, typer.Option(help="Module path that the SAE reads. Default: as the SAE's file says.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after so many corpus tokens.")] = None,
    text_field: Annotated[str, typer.Option(help="The text column of a .jsonl or .parquet corpus.")] = "text",
    revision: Annotated[str | None, typer.Option(help="The subject's hub revision.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for the subject and the encoder.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: cuda where there is one.")] = None,
    sequence_tokens: Annotated[int, typer.Option(min=32, help="Tokens the subject reads at a time.")] = 256,
    seed: Annotated[int, typer.Option(help="Decides the split and the samples.")] = 0,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Read only the I-th of N parts; `labeler merge` joins them.")
    ] = "1/1",
    as_json: Json = False,
) -> None:
    """Read the corpus once and write down what each feature does: the evidence for its label."""
    from labeler.recipe import GatherConfig

    config = GatherConfig(n_tokens=tokens, sequence_tokens=sequence_tokens, seed=seed, dtype=dtype)
    cut = _parse_shard(shard)
    from labeler.evidence.gather import neurons
    from labeler.pipeline import gather_evidence
    from labeler.sae import load_sae
    from labeler.subject.corpus import open_corpus
    from labeler.subject.model import load_subject

    text = open_corpus(corpus, text_field)
    loaded = load_subject(subject, revision=revision, dtype=dtype, device=device)
    if sae == "neurons":
        encoder = neurons(loaded, hookpoint)
    else:
        encoder = load_sae(sae, hookpoint=hookpoint, dtype=dtype, device=loaded.device)
    with gather_progress() as on_progress:
        gather_evidence(
            loaded, encoder, text, config, out, hookpoint=hookpoint, shard=cut, on_progress=on_progress
        )  # fmt: skip
    _after_gathering(out, cut, as_json)


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
    """Join the shards of a gathering pass into evidence. Refuses if one is missing, and names it."""
    from labeler.evidence.merge import adopt_shards, merge_shards

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
