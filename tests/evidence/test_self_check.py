"""The check before a pass: an SAE that explains little stops it, says what fits, and goes on by force alone."""

from __future__ import annotations

import copy
import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labeler.bundled import SAE, SUBJECT
from labeler.errors import MismatchError
from labeler.evidence.check_vector import check_vector
from labeler.evidence.manifest import read_manifest
from labeler.evidence.target import choose_target
from labeler.export.card import build_card, card_markdown
from labeler.export.export import export_label_set
from labeler.imports.labels import import_labels
from labeler.recipe import GatherConfig, Recipe
from labeler.sae import load_sae
from labeler.sae.massive import is_massive, massive_norm
from labeler.store import open_store
from labeler.subject.corpus import Corpus, Document
from labeler.subject.model import Subject, load_subject
from tests.planted import Planted
from tests.results import silent

TEXTS = [
    "def first(values):\n    return values[0]\n" * 8,
    "import os\n\nfor name in os.listdir('.'):\n    print(name)\n" * 8,
]
CORPUS = Corpus("two texts", lambda: (Document(str(i), text) for i, text in enumerate(TEXTS)))
CONFIG = GatherConfig()


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(SUBJECT)


def test_the_demos_sae_reads_the_right_vector(subject: Subject) -> None:
    check = check_vector(subject, choose_target(subject, load_sae(SAE), None), CORPUS, CONFIG, force=False)
    assert check.passed
    assert not check.forced
    assert check.explained_variance is not None
    assert check.explained_variance > 0.7


def test_an_sae_at_the_wrong_place_stops_and_the_place_that_fits_is_named(subject: Subject) -> None:
    target = choose_target(subject, load_sae(SAE), "gpt_neox.layers.2.mlp")
    with pytest.raises(MismatchError) as refused:
        check_vector(subject, target, CORPUS, CONFIG, force=False)
    said = str(refused.value)
    assert re.search(r"SAE labeler-demo/sae explains -?\d+% of the variance of gpt_neox.layers.2.mlp", said)
    assert "another layer, a module's input in place of its output" in said
    assert re.search(
        r"gpt_neox.layers.2 fits best and explains [789]\d%: give it with --hookpoint gpt_neox.layers.2", said
    )
    assert "--force" in said


def test_force_goes_on_and_says_so(subject: Subject) -> None:
    target = choose_target(subject, load_sae(SAE), "gpt_neox.layers.2.mlp")
    check = check_vector(subject, target, CORPUS, CONFIG, force=True)
    assert (check.forced, check.passed) == (True, False)


def test_a_transcoder_may_explain_little_but_not_less_than_the_mean(subject: Subject) -> None:
    sae = load_sae(SAE)
    silent = replace(sae, is_transcoder=True, output_hookpoint="gpt_neox.layers.2.mlp", b_enc=sae.b_enc - 1e6)
    aim = subject.hookpoint("gpt_neox.layers.2.mlp")
    ids = torch.tensor(subject.tokenizer(TEXTS[0])["input_ids"][:64])[None]
    mean = subject.hidden(ids, [aim])[aim][0].mean(dim=0)
    near = check_vector(
        subject, choose_target(subject, replace(silent, b_dec=mean + 0.1), None), CORPUS, CONFIG, force=True
    )
    assert near.least == 0.0
    far = replace(silent, b_dec=mean + 100.0)
    with pytest.raises(MismatchError, match="a transcoder that reads the right vector explains 0% at the very least"):
        check_vector(subject, choose_target(subject, far, None), CORPUS, CONFIG, force=False)


def test_random_weights_fit_nowhere(subject: Subject) -> None:
    sae = load_sae(SAE)
    generator = torch.Generator().manual_seed(0)
    shuffled = replace(sae, w_dec=sae.w_dec[torch.randperm(sae.n_features, generator=generator)])
    with pytest.raises(MismatchError, match="Nor do the places around it fit: the best of them"):
        check_vector(subject, choose_target(subject, shuffled, None), CORPUS, CONFIG, force=False)


def test_a_massive_token_does_not_hide_that_the_rest_is_not_explained(subject: Subject, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """An SAE that explains the first token alone explains nearly all of the variance, and nothing of the text."""
    sae, hidden = load_sae(SAE), Subject.hidden
    giant = torch.full((sae.d_in,), 5000.0)

    def with_sinks(self: Subject, ids: torch.Tensor, places: list) -> dict:  # type: ignore[type-arg]
        found = hidden(self, ids, places)
        for states in found.values():
            states[:, 0] = giant
        return found

    monkeypatch.setattr(Subject, "hidden", with_sinks)
    w_enc, w_dec = torch.zeros_like(sae.w_enc), torch.zeros_like(sae.w_dec)
    w_enc[0], w_dec[0] = giant / giant.square().sum(), giant
    only_sinks = replace(
        sae,
        w_enc=w_enc,
        b_enc=torch.zeros_like(sae.b_enc) - 0.5,
        w_dec=w_dec * 2,
        b_dec=torch.zeros_like(sae.b_dec),
        centred=False,
    )
    with pytest.raises(MismatchError, match="over ordinary tokens"):
        check_vector(subject, choose_target(subject, only_sinks, None), CORPUS, CONFIG, force=False)


def test_massive_tokens_are_told_by_a_multiple_of_the_median() -> None:
    hidden = torch.ones(9, 4)
    hidden[0], hidden[1] = 10.5, 9.5
    limit = massive_norm(hidden)
    assert limit == 20.0  # ten times a norm of 2
    assert is_massive(hidden, limit).tolist() == [True] + [False] * 8
    assert massive_norm(torch.zeros(3, 4)) is None
    assert not is_massive(hidden, None).any()


@pytest.fixture
def misplaced(planted: Planted, tmp_path: Path) -> list[object]:
    """The planted SAE where its subject's only block gives another vector."""
    return [
        "gather",
        "--subject",
        planted.subject,
        "--sae",
        planted.sae,
        "--corpus",
        planted.corpus,
        "--sequence-tokens",
        96,
        "--hookpoint",
        "gpt_neox.layers.0.mlp",
        "--tokens",
        9000,
        "--out",
        tmp_path / "evidence",
    ]


def test_the_command_stops_before_it_writes_and_the_right_place_can_follow(run, misplaced, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = run(*misplaced)
    assert (done.code, "--force" in done.err) == (2, True), done.err
    assert not (tmp_path / "evidence").exists()
    misplaced[misplaced.index("--hookpoint") + 1] = "gpt_neox.embed_in"
    assert run(*misplaced).code == 0
    assert read_manifest(tmp_path / "evidence")["self_check"]["forced"] is False


def test_a_forced_pass_says_so_on_the_card(run, misplaced, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run(*misplaced, "--force").code == 0
    assert read_manifest(tmp_path / "evidence")["self_check"]["forced"] is True
    assert run("label", tmp_path / "evidence", "--features", "0-1", "--db", tmp_path / "l.db").code == 0
    out = tmp_path / "labels.jsonl"
    assert run("export", "--db", tmp_path / "l.db", "--out", out).code == 0
    assert "Gathered by force" in (tmp_path / "labels.jsonl.card.md").read_text()
    assert json.loads((tmp_path / "labels.jsonl.card.json").read_text())["self_check"]["forced"] is True


def test_remarks_and_the_check_stand_on_the_card_and_go_with_the_labels(planted_evidence: Path, tmp_path: Path) -> None:
    manifest = copy.deepcopy(read_manifest(planted_evidence))
    manifest["sae"]["remarks"] = ["config.json has keys that were not read: 'lp'", "a_key with `ticks` | and a bar"]
    manifest["self_check"]["forced"] = True
    with closing(open_store(str(tmp_path / "a.db"))) as made, closing(open_store(str(tmp_path / "b.db"))) as other:
        made.label_set_for(manifest, str(planted_evidence), Recipe())
        made.save(1, [silent(5)])
        export_label_set(made, 1, "jsonl", tmp_path / "labels.jsonl")
        import_labels(other, tmp_path / "labels.jsonl")
        for store in (made, other):
            card = build_card(store, 1)
            assert card["sae"]["remarks"] == manifest["sae"]["remarks"]
            assert card["self_check"] == manifest["self_check"]
            text = card_markdown(card)
            assert "| remark | config.json has keys that were not read: 'lp' |" in text
            assert "Gathered by force" in text
