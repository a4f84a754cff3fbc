"""The way in which TransformerLens loaded the subject decides what an SAE's hook held."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from labeler.errors import FormatError, InputError
from labeler.evidence.target import choose_target
from labeler.sae import load_sae
from labeler.sae.sae import SAE
from labeler.subject.model import Subject

GOLDEN = Path(__file__).parents[1] / "golden" / "sae" / "saelens_standard"


def loaded(tmp_path: Path, hook: str | None, arguments: object, *, in_metadata: bool) -> SAE:
    folder = tmp_path / "sae"
    shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
    cfg = json.loads((folder / "cfg.json").read_text())
    values: dict[str, Any] = {"hook_name": hook, "model_from_pretrained_kwargs": arguments}
    cfg = {**cfg, "metadata": values} if in_metadata else {**cfg, **values, "metadata": None}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return load_sae(str(folder))


@pytest.mark.parametrize("in_metadata", [True, False])
def test_centered_weights_in_the_files_own_configuration_center_the_place(tmp_path: Path, in_metadata: bool) -> None:
    arguments = {"center_writing_weights": True, "fold_ln": True, "n_devices": 2}
    sae = loaded(tmp_path, "blocks.1.hook_resid_pre", arguments, in_metadata=in_metadata)
    assert sae.hookpoint == "blocks.1.hook_resid_pre|centered"
    assert "by cfg.json: center_writing_weights" in sae.remarks


@pytest.mark.parametrize("arguments", [None, {}, {"center_writing_weights": False}, {"fold_ln": True, "dtype": "bf16"}])
def test_what_changes_no_hidden_state_is_passed_over(tmp_path: Path, arguments: object) -> None:
    assert (
        loaded(tmp_path, "blocks.1.hook_resid_pre", arguments, in_metadata=True).hookpoint == "blocks.1.hook_resid_pre"
    )


@pytest.mark.parametrize(
    ("hook", "arguments", "why"),
    [
        ("blocks.1.attn.hook_z", {"fold_value_biases": True}, "loaded with fold_value_biases"),
        ("blocks.1.attn.hook_z", {"refactor_factored_attn_matrices": True}, "refactor_factored_attn_matrices"),
        ("blocks.1.hook_resid_pre", {"rotate": 3}, "loaded with rotate"),
        ("blocks.1.hook_resid_pre", ["fold_ln"], "is list; expected an object"),
        (None, {"center_writing_weights": True}, "nothing says which hook was read"),
    ],
)
def test_what_changes_the_hidden_state_otherwise_is_refused(
    tmp_path: Path, hook: str | None, arguments: object, why: str
) -> None:
    with pytest.raises(FormatError, match=why):
        loaded(tmp_path, hook, arguments, in_metadata=True)


def test_another_checkpoint_of_the_model_stands_on_the_card(tmp_path: Path) -> None:
    sae = loaded(tmp_path, "blocks.1.hook_resid_pre", {"checkpoint_index": 7}, in_metadata=True)
    assert any("checkpoint_index: 7; give that as the subject" in remark for remark in sae.remarks)


class Model(torch.nn.Module):
    def __init__(self, model_type: str) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
        text = SimpleNamespace(model_type=model_type)
        self.config = SimpleNamespace(get_text_config=lambda: text)


@pytest.mark.parametrize(("model_type", "adjust"), [("gpt2", "centered"), ("olmo", "centered"), ("llama", "")])
@pytest.mark.parametrize("given", [None, "layers.1:input"])
def test_only_models_with_layer_norm_are_centered_also_at_a_place_that_the_user_names(
    tmp_path: Path, model_type: str, adjust: str, given: str | None
) -> None:
    subject = Subject("m", "r", Model(model_type), None, "cpu")
    sae = loaded(tmp_path, "blocks.1.hook_resid_pre", {"center_writing_weights": True}, in_metadata=True)
    target = choose_target(subject, sae, given)
    assert (target.hookpoint.path, target.hookpoint.reads) == ("layers.1", "input")
    assert target.hookpoint.adjust == adjust
    assert any("not centered" in remark for remark in target.sae.remarks) == (adjust == "")
    if adjust:
        assert choose_target(subject, sae, "layers.1:input|centered").hookpoint.adjust == "centered"


def test_a_family_whose_centering_was_not_checked_asks(tmp_path: Path) -> None:
    sae = loaded(tmp_path, "blocks.1.hook_resid_pre", {"center_writing_weights": True}, in_metadata=True)
    asks = r"in a 'falcon' model was not checked: give --hookpoint 'layers\.1:input\|centered'"
    with pytest.raises(InputError, match=asks):
        choose_target(Subject("m", "r", Model("falcon"), None, "cpu"), sae, None)
    # TransformerLens leaves the bias of Bloom's first norm in.
    with pytest.raises(InputError, match="in a 'bloom' model cannot be reproduced"):
        choose_target(Subject("m", "r", Model("bloom"), None, "cpu"), sae, None)


def test_what_is_read_within_attention_is_not_centered(tmp_path: Path) -> None:
    sae = loaded(tmp_path, "blocks.1.attn.hook_z", {"center_writing_weights": True}, in_metadata=True)
    assert sae.hookpoint == "blocks.1.attn.hook_z"
