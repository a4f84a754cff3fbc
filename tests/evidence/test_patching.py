"""What reading a reconstruction costs the subject, where the answer is known: everything, nothing, or what a mean gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labeler.bundled import HOOKPOINT, SUBJECT_PATH
from labeler.errors import InputError
from labeler.evidence.patching import PatchedLosses, measure_loss, patched_losses
from labeler.evidence.target import Target, choose_target, neurons
from labeler.recipe import GatherConfig
from labeler.sae import SAE
from labeler.sae.sae import Selection, Source
from labeler.subject.corpus import Corpus, Document
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject, load_subject
from labeler.subject.reading import TokenBatch, token_batches
from labeler.subject.sequences import TokenizedCorpus, tokenize_corpus
from tests.demo.code import CODE

BLOCK = Hookpoint(HOOKPOINT)
BLOCK_INPUT = Hookpoint(HOOKPOINT, "input")
MLP = "gpt_neox.layers.2.mlp"
TEXTS = [CODE[:600], CODE[600:]]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(str(SUBJECT_PATH), device="cpu")


@pytest.fixture(scope="module")
def batches(subject: Subject) -> list[TokenBatch]:
    return list(token_batches(subject, [Document(str(i), t) for i, t in enumerate(TEXTS)], 128))


def linear(w: Tensor, b: Tensor | None = None, **changes: object) -> SAE:
    """An SAE that gives `hidden @ w + b`: features come in pairs, one for each sign."""
    d_in, d_out = w.shape
    eye = torch.eye(d_in)
    return replace(
        SAE(
            torch.cat([eye, -eye]),
            torch.zeros(2 * d_in),
            torch.cat([w, -w]),
            torch.zeros(d_out) if b is None else b,
            Selection("relu"),
            "test",
            Source(Path("test"), "test", "0"),
        ),
        **changes,
    )  # type: ignore[arg-type]


def losses(subject: Subject, target: Target, batches: list[TokenBatch]) -> PatchedLosses:
    found = patched_losses(subject, target, batches)
    assert found is not None
    return found


def test_the_loss_is_that_of_the_subject(subject: Subject, batches: list[TokenBatch]) -> None:
    """One unpadded sequence at a time, by transformers' own loss."""
    total, n = 0.0, 0
    for batch in batches:
        for ids, mask in zip(batch.ids, batch.mask, strict=True):
            row = ids[mask][None]
            if row.shape[1] < 2:
                continue
            with torch.no_grad():
                total += subject.model(input_ids=row, labels=row).loss.item() * (row.shape[1] - 1)
            n += row.shape[1] - 1
    found = losses(subject, Target(BLOCK, linear(torch.eye(192)), BLOCK), batches)
    assert found.n_tokens == n
    assert found.cross_entropy == pytest.approx(total / n, rel=1e-4)


@pytest.mark.parametrize("place", [BLOCK, BLOCK_INPUT], ids=str)
def test_an_exact_reconstruction_recovers_all(subject: Subject, batches: list[TokenBatch], place: Hookpoint) -> None:
    found = losses(subject, Target(place, linear(torch.eye(192)), place), batches)
    assert found.recovered == pytest.approx(1.0, abs=1e-4)
    assert found.recovered_zero == pytest.approx(1.0, abs=1e-4)
    assert min(found.cross_entropy_mean, found.cross_entropy_zero) > found.cross_entropy + 0.5


@pytest.mark.parametrize("place", [BLOCK, BLOCK_INPUT], ids=str)
def test_an_sae_of_zeros_is_the_ablation(subject: Subject, batches: list[TokenBatch], place: Hookpoint) -> None:
    found = losses(subject, Target(place, linear(torch.zeros(192, 192)), place), batches)
    assert found.cross_entropy_sae == pytest.approx(found.cross_entropy_zero)
    assert found.recovered_zero == pytest.approx(0.0, abs=1e-6)


def test_an_sae_that_gives_the_mean_recovers_nothing(subject: Subject, batches: list[TokenBatch]) -> None:
    hidden = torch.cat([subject.hidden(b.ids, [BLOCK])[BLOCK][b.mask] for b in batches])
    found = losses(subject, Target(BLOCK, linear(torch.zeros(192, 192), hidden.mean(0)), BLOCK), batches)
    assert found.recovered == pytest.approx(0.0, abs=1e-4)


def test_a_transcoder_stands_in_for_its_module(subject: Subject, batches: list[TokenBatch]) -> None:
    """What it reads is the MLP's input, and its reconstruction becomes the MLP's output: one linear map, fitted here."""
    read, aim = Hookpoint(MLP, "input"), Hookpoint(MLP)
    captured = [subject.hidden(b.ids, [read, aim]) for b in batches]
    x, y = (torch.cat([c[h][b.mask] for c, b in zip(captured, batches, strict=True)]) for h in (read, aim))
    w = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    fitted = losses(subject, Target(read, linear(w[:-1], w[-1], is_transcoder=True, reads_input=True), aim), batches)
    copied = losses(subject, Target(read, linear(torch.eye(192), is_transcoder=True, reads_input=True), aim), batches)
    assert fitted.recovered is not None
    assert copied.recovered is not None
    assert 0.3 < fitted.recovered <= 1.0
    assert copied.recovered < 0.0, "the input of an MLP is no stand-in for its output"


def test_the_negative_activations_of_abstopk_are_reconstructed(subject: Subject, batches: list[TokenBatch]) -> None:
    """All 192 features of an identity whose features may be negative: only with them it is exact."""
    sae = replace(
        linear(torch.eye(192)),
        w_enc=torch.eye(192),
        b_enc=torch.zeros(192),
        w_dec=torch.eye(192),
        selection=Selection("abstopk", k=192),
    )
    assert losses(subject, Target(BLOCK, sae, BLOCK), batches).recovered == pytest.approx(1.0, abs=1e-4)


def test_neurons_lose_what_is_below_zero(subject: Subject, batches: list[TokenBatch]) -> None:
    sae = neurons(subject, f"{MLP}.act")
    found = losses(subject, choose_target(subject, sae, None), batches)
    assert found.recovered is not None
    assert 0.5 < found.recovered < 1.0


def test_no_hook_is_left_behind(subject: Subject, batches: list[TokenBatch]) -> None:
    narrow = linear(torch.eye(191))
    with pytest.raises(Exception, match="reads vectors of 191"):
        patched_losses(subject, Target(BLOCK, replace(narrow, w_dec=torch.zeros(382, 192)), BLOCK), batches)
    losses(subject, Target(BLOCK, linear(torch.zeros(192, 192)), BLOCK), batches)
    assert not [m for m in subject.model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_a_bos_token_keeps_what_the_subject_gave(subject: Subject) -> None:
    """Two tokens after a BOS: with the BOS zeroed as well, the second token's attention would see nothing."""
    (batch,) = token_batches(subject, [Document("0", "def f")], 128, bos=0)
    found = losses(subject, Target(BLOCK, linear(torch.zeros(192, 192)), BLOCK), [batch])
    assert found.n_tokens == int(batch.mask.sum()), "the first token follows the BOS"

    def zero_all_but_first(_module: object, _args: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], torch.zeros_like(output[:, 1:])], dim=1)

    handle = subject.model.get_submodule(HOOKPOINT).register_forward_hook(zero_all_but_first)
    with torch.no_grad():
        logits = subject.model(input_ids=batch.ids).logits
    handle.remove()
    expected = F.cross_entropy(logits[0, :-1], batch.ids[0, 1:]).item()
    assert found.cross_entropy_zero == pytest.approx(expected, rel=1e-5)


# What goes into the manifest


@pytest.fixture(scope="module")
def config() -> GatherConfig:
    return GatherConfig(sequence_tokens=64)


@pytest.fixture(scope="module")
def corpus(subject: Subject, config: GatherConfig, tmp_path_factory: pytest.TempPathFactory) -> TokenizedCorpus:
    documents = [Document(f"{i}-{n}", t[n : n + 120]) for i, t in enumerate(TEXTS) for n in range(0, len(t), 120)]
    return tokenize_corpus(
        Corpus("texts", lambda: iter(documents)),
        subject.tokenizer,
        config,
        tmp_path_factory.mktemp("corpus"),
        vocabulary_size=subject.vocabulary_size,
    )


def test_the_numbers_of_the_manifest(subject: Subject, corpus: TokenizedCorpus, config: GatherConfig) -> None:
    target = Target(BLOCK, linear(torch.eye(192)), BLOCK)
    found = measure_loss(subject, target, corpus, config, 10**9)
    assert found["n_tokens_cross_entropy"] == corpus.n_tokens - corpus.n_sequences, "all tokens but the first of each"
    assert found["cross_entropy_recovered"] == pytest.approx(1.0, abs=1e-4)
    assert found["cross_entropy_reason"] is None
    assert measure_loss(subject, target, corpus, config, 10**9) == found
    few = measure_loss(subject, target, corpus, config, 128)
    assert 64 <= few["n_tokens_cross_entropy"] < 0.6 * found["n_tokens_cross_entropy"]


def test_what_cannot_be_measured_says_why(subject: Subject, corpus: TokenizedCorpus, config: GatherConfig) -> None:
    unnamed = measure_loss(subject, Target(BLOCK, linear(torch.eye(192)), None), corpus, config, 256)
    assert unnamed["cross_entropy_recovered"] is None
    assert "does not say what it reconstructs" in unnamed["cross_entropy_reason"]
    wide = measure_loss(subject, Target(BLOCK, linear(torch.zeros(192, 200)), BLOCK), corpus, config, 256)
    assert "another width" in wide["cross_entropy_reason"]
    last = PatchedLosses(10, 2.0, 2.5, 2.0, 3.0)
    assert last.recovered is None
    assert last.recovered_zero == 0.5


def test_tokens_that_follow_nothing_cannot_be_measured_on(subject: Subject) -> None:
    single = list(token_batches(subject, [Document("0", "x")], 128))
    with pytest.raises(InputError, match="no token follows another"):
        patched_losses(subject, Target(BLOCK, linear(torch.eye(192)), BLOCK), single)
