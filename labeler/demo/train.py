"""Train a subject and an SAE as those of the demo were trained: `python -m labeler.demo.train OUT`.

    standard library ──► tokenizer ──► subject ──hidden──► SAE ──► figures on files that neither was trained on

`--subject PATH` takes a subject that is there already. PROVENANCE.md says what the shipped weights came from.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labeler.bundled import CORPUS
from labeler.demo.figures import Figures, measure
from labeler.errors import InputError
from labeler.files import write_json
from labeler.sae.train import TrainConfig, TrainedSAE, train_sae
from labeler.subject.corpus import Document, open_corpus
from labeler.subject.model import Subject, load_subject
from labeler.subject.reading import first_tokens, hidden_batches, token_batches

_END = "<|endoftext|>"

Say = Callable[[str], None]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class DemoConfig:
    """Settings that decide the demo's weights; each field is a flag of the command."""

    documents: int = _option(100_000, "read at most this many files of the standard library")
    held_out_share: float = _option(0.05, "share of files, by the hash of their content, that only serve the figures")
    vocabulary: int = _option(4096, "tokens of the byte-level BPE")
    d_model: int = _option(192, "width of the subject")
    layers: int = _option(4, "layers of the subject")
    heads: int = _option(4, "attention heads of the subject")
    context: int = _option(256, "tokens of a sequence")
    steps: int = _option(1860, "steps of training the subject")
    batch: int = _option(8, "sequences a step of the subject")
    learning_rate: float = _option(3e-3, "of the subject, at the height of its cosine")
    hook_layer: int = _option(2, "the SAE reads the output of gpt_neox.layers.N")
    features: int = _option(1536, "features of the SAE")
    k: int = _option(16, "features that may fire on a token")
    sae_tokens: int = _option(1_500_000, "hidden states to train the SAE on")
    sae_epochs: int = _option(3, "how often each of them is seen")
    sae_batch: int = _option(4096, "tokens a step of the SAE")
    sae_learning_rate: float = _option(1e-3, "of the SAE")
    held_out_tokens: int = _option(100_000, "tokens of held-out files that the figures are measured on")
    seed: int = _option(0, "decides first weights and the order of batches")

    @property
    def hookpoint(self) -> str:
        return f"gpt_neox.layers.{self.hook_layer}"


def train_demo(out: Path, config: DemoConfig, say: Say, subject_path: Path | None = None) -> Figures:
    """Write `out/subject`, `out/sae` and `out/figures.json`; `subject_path` stands in for the first."""
    training, held_out = split_documents(config)
    say(f"{len(training)} files to train on, {len(held_out)} held out")
    if subject_path is None:
        subject_path = out / "subject"
        train_subject(training, config, subject_path, say)
    subject = load_subject(str(subject_path), device="cpu")
    trained = train_demo_sae(subject, training, config, say)
    trained.save(
        out / "sae",
        model_name="demo",
        hook_name=config.hookpoint,
        context_size=config.context,
        prepend_bos=False,
        dtype="float16",
    )
    batches = token_batches(subject, held_out, config.context)
    figures = measure(subject, out / "sae", list(first_tokens(batches, config.held_out_tokens)))
    write_json(out / "figures.json", {"config": asdict(config), "figures": figures.to_dict()})
    return figures


def split_documents(config: DemoConfig) -> tuple[list[Document], list[Document]]:
    """(training, held-out). By content, so that copies of a file land on the same side."""
    documents = list(islice(open_corpus(CORPUS).documents(), config.documents))

    def is_held_out(document: Document) -> bool:
        digest = hashlib.sha256(document.text.encode()).digest()
        return int.from_bytes(digest[:8], "big") < config.held_out_share * 2.0**64

    training = [d for d in documents if not is_held_out(d)]
    held_out = [d for d in documents if is_held_out(d)]
    if not training or not held_out:
        raise InputError(f"{len(documents)} files leave none to train on or none held out: give more with --documents")
    return training, held_out


def train_tokenizer(documents: Sequence[Document], vocabulary: int, context: int) -> Any:
    """A byte-level BPE (Radford et al. 2019) whose token 0 ends a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator((d.text for d in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_END, eos_token=_END, pad_token=_END, model_max_length=context
    )


def train_subject(documents: Sequence[Document], config: DemoConfig, folder: Path, say: Say) -> None:
    """Train tokenizer and GPT-NeoX, and save both; the weights as float16."""
    tokenizer = train_tokenizer(documents, config.vocabulary, config.context)
    torch.manual_seed(config.seed)
    model = _new_model(config, len(tokenizer))
    _fit(model, _one_stream(documents, tokenizer), config, say)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _new_model(config: DemoConfig, n_vocabulary: int) -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=n_vocabulary,
            hidden_size=config.d_model,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.d_model,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def _one_stream(documents: Sequence[Document], tokenizer: Any) -> Tensor:
    """All token ids, [n_tokens], with token 0 after each document."""
    ids = tokenizer([d.text for d in documents], add_special_tokens=False, verbose=False)["input_ids"]
    return torch.cat([torch.tensor([*one, 0]) for one in ids])


def _fit(model: Any, stream: Tensor, config: DemoConfig, say: Say) -> None:
    """AdamW on random crops of the stream; bfloat16 products, which CPUs with AMX do twice as fast."""
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    model.train()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _cosine(step, config.steps)
        starts = torch.randint(len(stream) - config.context, (config.batch,), generator=generator)
        batch = torch.stack([stream[s : s + config.context] for s in starts.tolist()])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == config.steps:
            say(f"subject: step {step + 1} of {config.steps}, {loss.item():.3f} nats a token")


def _cosine(step: int, steps: int) -> float:
    """Factor of the learning rate: up over the first 5%, then a half cosine down to a tenth."""
    warmup = min(1.0, (step + 1) / max(1.0, 0.05 * steps))
    return warmup * (0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2)


def train_demo_sae(subject: Subject, documents: Sequence[Document], config: DemoConfig, say: Say) -> TrainedSAE:
    """Read the hidden states once, and train on them in random order for some epochs."""
    hidden = hidden_states(subject, documents, config)
    say(f"SAE: {len(hidden):,} hidden states at {config.hookpoint}")
    sae_config = TrainConfig(
        n_features=config.features,
        n_tokens=len(hidden) * config.sae_epochs,
        objective="topk",
        k=config.k,
        learning_rate=config.sae_learning_rate,
        batch_tokens=config.sae_batch,
        seed=config.seed,
    )
    return train_sae(
        _epochs(hidden, config),
        sae_config,
        on_progress=lambda p: say(
            f"SAE: step {p.step} of {sae_config.n_steps}, variance explained "
            f"{p.explained_variance or 0:.3f}, L0 {p.l0:.1f}, dead {p.dead_share:.3f}"
        ),
    )


def hidden_states(subject: Subject, documents: Sequence[Document], config: DemoConfig) -> Tensor:
    """[n, d_model] of the first `sae_tokens` tokens, in bfloat16: 0.6 GB with the defaults."""
    batches = first_tokens(token_batches(subject, documents, config.context), config.sae_tokens)
    hidden = hidden_batches(subject, subject.hookpoint(config.hookpoint), batches)
    return torch.cat([h.bfloat16() for h in hidden])[: config.sae_tokens]


def _epochs(hidden: Tensor, config: DemoConfig) -> Iterator[Tensor]:
    # All of it is in memory, so that no buffer is needed to shuffle.
    generator = torch.Generator().manual_seed(config.seed)
    for _epoch in range(config.sae_epochs):
        for rows in torch.randperm(len(hidden), generator=generator).split(config.sae_batch):
            yield hidden[rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m labeler.demo.train", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path, help="the folder to write subject/, sae/ and figures.json into")
    parser.add_argument("--subject", type=Path, help="train only the SAE, on the subject in this folder")
    for option in fields(DemoConfig):
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=type(option.default),
            default=option.default,
            help=f"{option.metadata['help']} (default: %(default)s)",
        )
    given = vars(parser.parse_args(arguments))
    out, subject_path = given.pop("out"), given.pop("subject")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    figures = train_demo(out, DemoConfig(**given), say, subject_path)
    print("\n".join(f"{name:>24}  {value}" for name, value in figures.to_dict().items()))


if __name__ == "__main__":
    main()
