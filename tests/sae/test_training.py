"""An SAE for a subject and a corpus: from the command to a folder that `labeler gather` reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labeler.errors import InputError, NotFoundError
from labeler.sae import SAE, load_sae
from labeler.sae.train import OBJECTIVES, TrainConfig
from labeler.sae.training import ReadingConfig, train_on_corpus
from labeler.subject.corpus import Corpus, Document, open_corpus
from labeler.subject.model import Subject, load_subject
from tests.planted import CHARACTERS, D_MODEL, HOOKPOINT, Planted

SETTINGS = {
    "topk": ["--k", "1"],
    "batchtopk": ["--k", "1", "--batch-tokens", "256", "--learning-rate", "5e-3", "--features", "64"],
    "l1": ["--l1", "0.2"],
    "kl": ["--kl", "30", "--target-density", "0.01", "--features", "64"],
}
CONFIG = TrainConfig(n_features=64, n_tokens=20_000, k=1, batch_tokens=512, learning_rate=2e-2)


def words(planted: Planted, out: Path, *more: object) -> list[object]:
    options = {
        "subject": planted.subject,
        "hookpoint": "embed_in",
        "corpus": planted.corpus,
        "out": out,
        "features": 128,
        "k": 1,
        "tokens": 60_000,
        "batch-tokens": 512,
        "learning-rate": 2e-2,
        "sequence-tokens": 96,
    }
    return ["train", *(w for name, value in options.items() for w in (f"--{name}", value)), *more]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def subject(planted: Planted) -> Subject:
    return load_subject(str(planted.subject), device="cpu")


@pytest.fixture(scope="module")
def common(planted: Planted) -> list[int]:
    """Token ids of the characters that are often enough to be learnt."""
    counts = Counter("".join(p.read_text() for p in planted.corpus.iterdir()))
    return [1 + CHARACTERS.index(c) for c, n in counts.items() if n > 0.005 * counts.total()]


def recovery(decoder: Tensor, token_ids: list[int]) -> float:
    """Mean cosine of each character's embedding, a unit vector, with the decoder row that is nearest."""
    return (torch.eye(D_MODEL)[token_ids] @ F.normalize(decoder, dim=1).T).amax(dim=1).mean().item()


def trained(planted: Planted, out: Path, run, *more: object) -> SAE:  # type: ignore[no-untyped-def]
    done = run(*words(planted, out, *more))
    assert done.code == 0, done.err
    return load_sae(str(out))


@pytest.mark.parametrize(("objective", "least"), [("topk", 0.9), ("batchtopk", 0.7), ("l1", 0.9), ("kl", 0.7)])
def test_the_command_finds_the_planted_directions(
    run,
    planted: Planted,
    common: list[int],
    tmp_path: Path,
    objective: str,
    least: float,  # type: ignore[no-untyped-def]
) -> None:
    sae = trained(planted, tmp_path / "sae", run, "--objective", objective, *SETTINGS[objective])
    assert recovery(torch.randn_like(sae.w_dec), common) < 0.45
    assert recovery(sae.w_dec, common) > least


def test_what_was_trained_is_gathered_and_labelled(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out, evidence = tmp_path / "sae", tmp_path / "evidence"
    done = run(*words(planted, out))
    assert f"labeler gather --subject {planted.subject} --sae {out}" in done.out
    assert "variance explained" in done.out
    gathered = run(
        "gather",
        "--subject",
        planted.subject,
        "--sae",
        out,
        "--corpus",
        planted.corpus,
        "--out",
        evidence,
        "--sequence-tokens",
        96,
        "--json",
    )
    assert gathered.code == 0, gathered.err
    manifest = json.loads(gathered.out)
    assert manifest["hookpoint"] == HOOKPOINT
    assert manifest["quality"]["explained_variance"] > 0.95
    sae = load_sae(str(out))
    letter = int((torch.eye(D_MODEL)[1 + CHARACTERS.index("b")] @ sae.w_dec.T).argmax())
    labelled = run("label", evidence, "--features", letter, "--json")
    assert json.loads(labelled.out)["now"] == {"labeled": 1}
    assert "`b`" in run("show", evidence, letter).out


def test_the_file_says_what_it_was_trained_on(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run(*words(planted, tmp_path / "sae", "--tokens", 4_000, "--seed", 3, "--json"))
    told = json.loads(done.out)
    metadata = json.loads((tmp_path / "sae" / "cfg.json").read_text())["metadata"]
    about = metadata["labeler_training"]
    assert (metadata["hook_name"], metadata["prepend_bos"], metadata["context_size"]) == (HOOKPOINT, False, 96)
    assert about["config"]["seed"] == 3
    assert about["trained_on"]["corpus"] == str(planted.corpus)
    assert about["trained_on"]["revision"].startswith("sha256:")
    assert {k: told[k] for k in about} == about
    assert told["sae"] == str(tmp_path / "sae")


def test_massive_tokens_are_left_out_and_counted(  # type: ignore[no-untyped-def]
    run, planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the sinks a k of 1 learns the characters as well as ever; the sinks' own dimension is not learned."""
    hidden = Subject.hidden

    def sinking(self: Subject, ids: Tensor, places: Any) -> Any:
        found = {place: states.clone() for place, states in hidden(self, ids, places).items()}
        for states in found.values():
            states[:, 0, D_MODEL - 1] = 300.0
        return found

    monkeypatch.setattr(Subject, "hidden", sinking)
    done = run(*words(planted, tmp_path / "sae", "--tokens", 8_000))
    assert re.search(r"Left out \d+ massive tokens, whose norm is over 10, 10 times the median", done.out)
    about = json.loads((tmp_path / "sae" / "cfg.json").read_text())["metadata"]["labeler_training"]["trained_on"]
    n_left_out = about["n_massive_left_out"]
    assert 0.01 < n_left_out / about["n_tokens_read"] < 0.03
    assert about["massive_norm"] == 10.0
    sae = load_sae(str(tmp_path / "sae"))
    assert float(sae.b_dec[D_MODEL - 1].abs()) < 1.0


def test_progress_says_how_training_goes(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run(*words(planted, tmp_path / "sae", "--tokens", 4_000))
    for word in ("loss ", "L0 1.0", "explained ", "dead ", "3,584 of 3,584", "/s"):
        assert word in done.err, word


def test_an_sae_is_not_overwritten_silently(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "sae"
    first = trained(planted, out, run, "--tokens", 2_000)
    again = run(*words(planted, out, "--tokens", 2_000, "--seed", 1))
    assert again.code == 2
    assert "holds an SAE (cfg.json, sae_weights.safetensors): choose another --out" in again.err
    assert load_sae(str(out)).source.sha256 == first.source.sha256
    assert (
        trained(planted, out, run, "--tokens", 2_000, "--seed", 1, "--overwrite").source.sha256 != first.source.sha256
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--hookpoint", "embedding"], "the nearest are"),
        (["--hookpoint", "blocks.0.hook_z"], "hook name 'blocks.0.hook_z' does not translate"),
        (["--objective", "l2"], "choose one of l1, kl, topk, batchtopk"),
        (["--k", "129"], "1 to n_features, which is 128"),
        (["--tokens", "100"], "1 to n_tokens, which is 100"),
        (["--sequence-tokens", "4096"], "longer than the 128 positions"),
        (["--prepend-bos"], "has no BOS token"),
        (["--buffer-tokens", "600"], "at least two batches of 512"),
        (["--corpus", "/no/such/corpus"], "no such file or folder"),
        (["--dtype", "float16"], "float32 or bfloat16"),
        (["--learning-rate", "0"], "learning_rate is 0"),
    ],
)
def test_bad_input_is_one_clear_message(
    run,
    planted: Planted,
    tmp_path: Path,
    more: list[str],
    says: str,  # type: ignore[no-untyped-def]
) -> None:
    done = run(*words(planted, tmp_path / "sae", *more))
    assert done.code == 2
    assert says in done.err
    assert not (tmp_path / "sae" / "cfg.json").exists()


def test_a_place_that_cannot_be_written_is_said_before_the_work(run, planted: Planted, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("")
    done = run(*words(planted, tmp_path / "file" / "sae"))
    assert done.code == 2
    assert "is a file, but a folder is needed; name another --out" in done.err
    assert "read" not in done.err


def test_ctrl_c_says_what_is_lost(
    run,
    planted: Planted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    """The signal comes while the third batch of hidden states is read."""
    calls = iter((False, False, True))
    hidden = Subject.hidden

    def interrupted(*words: object) -> object:
        if next(calls, True):
            raise KeyboardInterrupt
        return hidden(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(Subject, "hidden", interrupted)
    done = run(*words(planted, tmp_path / "sae"))
    assert done.code == 130
    assert "stopped: 0 of 59,904 tokens were trained on, and no SAE was written" in done.err
    assert "continues" not in done.err
    assert not list((tmp_path / "sae").iterdir())


def test_a_small_corpus_is_read_again(subject: Subject) -> None:
    read: list[int] = []
    corpus = Corpus("one text", lambda: iter([Document("0", "abcdefgh" * 100)]))
    run = train_on_corpus(
        subject, HOOKPOINT, corpus, replace(CONFIG, n_tokens=2_048), ReadingConfig(64), on_read=read.append
    )
    assert run.trained_on["passes"] == 3
    assert run.trained.final.n_tokens == 2_048
    assert 2_048 <= read[-1] == run.trained_on["n_tokens_read"] <= 2_400


def test_no_more_than_a_buffer_is_read_ahead(subject: Subject) -> None:
    """When the first step is done, the buffer alone has been read."""
    read: list[int] = []
    seen: list[int] = []
    corpus = Corpus("texts", lambda: (Document(str(i), "abcdefgh" * 100) for i in range(1_000)))
    config = replace(CONFIG, n_tokens=512 * 60)
    train_on_corpus(
        subject,
        HOOKPOINT,
        corpus,
        config,
        ReadingConfig(64, buffer_tokens=2_048),
        on_read=read.append,
        on_progress=lambda p: seen.append(read[-1] - p.n_tokens),
    )
    assert seen[0] <= 2_048 + 32 * 64
    assert read[-1] >= 512 * 60


def test_a_corpus_without_text_is_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match="corpus 'nothing': no text to train on"):
        train_on_corpus(subject, HOOKPOINT, Corpus("nothing", lambda: iter([])), CONFIG, ReadingConfig(64))


def test_a_modules_input_is_trained_on_and_found_again(subject: Subject, planted: Planted, tmp_path: Path) -> None:
    name = "blocks.0.hook_resid_pre"
    run = train_on_corpus(subject, name, open_corpus(str(planted.corpus)), CONFIG, ReadingConfig(96))
    run.save(tmp_path / "sae")
    sae = load_sae(str(tmp_path / "sae"))
    assert subject.hookpoint(sae.hookpoint or "").reads == "input"
    with pytest.raises(NotFoundError, match="the nearest are"):
        train_on_corpus(subject, "nowhere", open_corpus(str(planted.corpus)), CONFIG, ReadingConfig(96))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_seed_gives_the_same_file(subject: Subject, planted: Planted, tmp_path: Path, objective: str) -> None:
    config = replace(CONFIG, n_tokens=4_096, objective=objective)
    for name in ("one", "two"):
        train_on_corpus(subject, HOOKPOINT, open_corpus(str(planted.corpus)), config, ReadingConfig(96)).save(
            tmp_path / name
        )
    one, two = (load_sae(str(tmp_path / name)).source.sha256 for name in ("one", "two"))
    assert one == two
