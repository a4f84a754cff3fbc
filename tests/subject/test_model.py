from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from labeler.errors import FormatError, InputError, NotFoundError
from labeler.subject.hookpoints import Hookpoint
from labeler.subject.model import Subject, load_subject
from labeler.subject.vocabulary import token_texts
from tests.planted import Planted


@pytest.fixture(scope="module")
def subject(planted: Planted) -> Subject:
    return load_subject(str(planted.subject))


def n_hooks(subject: Subject) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in subject.model.modules())


def test_hidden_is_what_transformers_gives(subject: Subject) -> None:
    ids = torch.randint(1, 70, (3, 40), generator=torch.Generator().manual_seed(0))
    block, mlp = Hookpoint("gpt_neox.layers.0"), Hookpoint("gpt_neox.layers.0.mlp", "input")
    captured = subject.hidden(ids, [block, mlp])
    with torch.no_grad():
        states = subject.model(ids, output_hidden_states=True).hidden_states
    embedded = subject.hidden(ids, [Hookpoint("gpt_neox.layers.0", "input")])
    torch.testing.assert_close(embedded[Hookpoint("gpt_neox.layers.0", "input")], states[0])
    final = subject.model.gpt_neox.final_layer_norm(captured[block])
    torch.testing.assert_close(final, states[-1])
    assert captured[mlp].shape == (3, 40, subject.hidden_size)
    assert not captured[block].requires_grad


def test_padding_on_the_right_changes_nothing_before_it(subject: Subject) -> None:
    ids = torch.randint(1, 70, (1, 30), generator=torch.Generator().manual_seed(0))
    hookpoint = Hookpoint("gpt_neox.layers.0")
    padded = torch.cat([ids, torch.zeros(1, 20, dtype=ids.dtype)], dim=1)
    alone = subject.hidden(ids, [hookpoint])[hookpoint]
    torch.testing.assert_close(subject.hidden(padded, [hookpoint])[hookpoint][:, :30], alone, atol=1e-5, rtol=1e-5)


def test_hooks_are_removed_also_after_an_error(subject: Subject) -> None:
    before = n_hooks(subject)  # transformers may have put its own
    subject.hidden(torch.ones(1, 4, dtype=torch.long), [Hookpoint("gpt_neox.layers.0")])
    assert n_hooks(subject) == before
    with pytest.raises(IndexError):
        subject.hidden(torch.full((1, 4), 10**6), [Hookpoint("gpt_neox.layers.0")])
    assert n_hooks(subject) == before


def test_the_forward_pass_stops_after_the_last_hookpoint(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the final layer norm ran")

    monkeypatch.setattr(subject.model.gpt_neox.final_layer_norm, "forward", never)
    subject.hidden(torch.ones(1, 4, dtype=torch.long), [Hookpoint("gpt_neox.layers.0")])


def test_a_hookpoint_may_leave_out_the_prefix(subject: Subject) -> None:
    assert subject.hookpoint("layers.0") == Hookpoint("gpt_neox.layers.0")


def test_a_missing_hookpoint_names_the_nearest(subject: Subject) -> None:
    with pytest.raises(NotFoundError, match=r"the nearest are .*gpt_neox\.layers\.0"):
        subject.hookpoint("gpt_neox.layer.0")


def test_joined_token_texts_give_the_text_back(subject: Subject) -> None:
    texts = token_texts(subject.tokenizer, 80)
    assert len(texts) == 80
    text = "Quick 7 brown;\nfox"
    assert "".join(texts[i] for i in subject.tokenizer(text)["input_ids"]) == text


def test_what_cannot_be_loaded_is_named(planted: Planted, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no config\.json there"):
        load_subject(str(tmp_path))
    with pytest.raises(InputError, match="dtype 'int4'"):
        load_subject(str(planted.subject), dtype="int4")
    broken = tmp_path / "broken"
    shutil.copytree(planted.subject, broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(FormatError, match="broken"):
        load_subject(str(broken))


def test_the_revision_of_a_local_subject_is_the_hash_of_its_weights(planted: Planted, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(planted.subject, copy)
    assert load_subject(str(copy)).revision == load_subject(str(planted.subject)).revision
    model = AutoModelForCausalLM.from_pretrained(copy)
    with torch.no_grad():
        model.gpt_neox.embed_in.weight[0, 0] += 1
    model.save_pretrained(copy)
    assert load_subject(str(copy)).revision != load_subject(str(planted.subject)).revision


def test_the_revision_of_a_hub_subject_is_its_commit(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(planted.subject, repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load_subject("owner/tiny").revision == commit
    assert load_subject("owner/tiny", revision=commit).revision == commit
