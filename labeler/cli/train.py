"""`labeler train` trains an SAE."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.app import app, stoppable
from labeler.cli.options import Json, check_out_folder, gather_progress, quoted, same_command, say
from labeler.evidence.progress import step

if TYPE_CHECKING:
    from labeler.sae.train import TrainProgress


@app.command()
def train(
    subject: Annotated[str, typer.Option(help="A transformers model: a local folder or a hub id.")],
    hookpoint: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="The module whose output the SAE learns, such as model.layers.8, or a SAELens hook name.",
        ),
    ],
    corpus: Annotated[
        str, typer.Option(help="A folder of text, a .txt, .jsonl, .parquet or .npy file, `python-stdlib`, `hf:NAME`.")
    ],
    out: Annotated[Path, typer.Option(metavar="SAE", help="The folder to write, in SAELens format.")],
    features: Annotated[int, typer.Option(min=1, help="Features of the SAE, commonly 4 to 64 times the width.")],
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens to train on; a smaller corpus is read again.")
    ] = 10_000_000,
    objective: Annotated[
        str, typer.Option(metavar="l1|kl|topk|batchtopk", help="The method that makes activations sparse.")
    ] = "topk",
    k: Annotated[int, typer.Option(min=1, help="topk: features that fire on a token; batchtopk: on average.")] = 32,
    l1: Annotated[float, typer.Option(min=0, help="l1: the weight of the penalty.")] = 0.1,
    kl: Annotated[float, typer.Option(min=0, help="kl: the weight of the penalty.")] = 3.0,
    target_density: Annotated[float, typer.Option(help="kl: the density that features are drawn to.")] = 0.01,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of Adam, at its peak.")] = 1e-3,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens per step.")] = 4096,
    sequence_tokens: Annotated[int, typer.Option(min=2, help="Tokens the subject reads at a time.")] = 256,
    prepend_bos: Annotated[
        bool | None,
        typer.Option(
            "--prepend-bos/--no-prepend-bos",
            help="Put a BOS token before each sequence. Default: the tokenizer's rule.",
        ),
    ] = None,
    buffer_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Hidden states in the buffer that batches are drawn from. Default: 512 MB."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first weights and the order of tokens.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for the subject and matrix products.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: cuda where there is one.")] = None,
    text_field: Annotated[str, typer.Option(help="The text column of a .jsonl or .parquet corpus.")] = "text",
    revision: Annotated[str | None, typer.Option(help="The subject's hub revision.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the SAE in the folder --out.")] = False,
    as_json: Json = False,
) -> None:
    """Train an SAE on a subject's hidden states."""
    check_out_folder(out)
    with gather_progress() as on_step, step(on_step, f"load {subject}"):  # importing torch takes much of this time
        from labeler.sae.train import TrainConfig
        from labeler.sae.training import ReadingConfig, check_out, train_on_corpus
        from labeler.subject.corpus import open_corpus
        from labeler.subject.model import load_subject

        config = TrainConfig(
            n_features=features,
            n_tokens=tokens,
            objective=objective,
            k=k,
            l1_coefficient=l1,
            kl_coefficient=kl,
            target_density=target_density,
            learning_rate=learning_rate,
            batch_tokens=batch_tokens,
            seed=seed,
            dtype=dtype,
        )
        reading = ReadingConfig(sequence_tokens, prepend_bos, buffer_tokens)
        text = open_corpus(corpus, text_field)
        check_out(out, overwrite=overwrite)
        loaded = load_subject(subject, revision=revision, dtype=dtype, device=device)
    with _bars(config.n_steps * config.batch_tokens) as (on_read, on_progress):
        run = train_on_corpus(loaded, hookpoint, text, config, reading, on_read=on_read, on_progress=on_progress)
    run.save(out)
    if as_json:
        typer.echo(json.dumps({"sae": str(out), **run.to_dict()}))
        return
    from labeler.records import MASSIVE_MULTIPLE
    from labeler.terminal import stdout, training_table

    stdout().print(training_table(run.trained.final))
    if n := run.trained_on["n_massive_left_out"]:
        say(
            f"Left out {n:,} massive tokens, whose norm is over {run.trained_on['massive_norm']:g}, "
            f"{MASSIVE_MULTIPLE:g} times the median."
        )
    say(
        f"The SAE is in {out}. Next: labeler gather --subject {quoted(subject)} --sae {quoted(out)} "
        f"--corpus {quoted(corpus)} --out evidence"
    )


@contextmanager
def _bars(n_tokens: int) -> Iterator[tuple[Callable[[int], None], Callable[[TrainProgress], None]]]:
    """Show two bars: hidden states read ahead into the buffer, and trained on. Ctrl-C says what is lost, and exits 130."""
    from labeler.terminal import progress, training_line

    n_trained = 0

    def kept() -> str:
        return (
            f"{n_trained:,} of {n_tokens:,} tokens were trained on, and no SAE was written: training saves nothing before its end, "
            f"and the same command begins again: {same_command()}"
        )

    with stoppable(kept), progress() as bar:
        read, train = (bar.add_task(what, total=n_tokens) for what in ("read", "train"))

        def on_read(n: int) -> None:
            bar.update(read, completed=min(n, n_tokens))

        def on_progress(p: TrainProgress) -> None:
            nonlocal n_trained
            n_trained = p.n_tokens
            bar.update(train, completed=p.n_tokens, description=f"train  {training_line(p)}")

        yield on_read, on_progress
