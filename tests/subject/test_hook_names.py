"""Every hook name in every family against the vector that TransformerLens itself gives: the same, or refused.

tests/golden/hooks holds the weights of a tiny model of each family and TransformerLens' vectors (make_hooks.py there).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from labeler.errors import InputError, NotFoundError
from labeler.published.places import SUBMODULES
from labeler.subject.hookpoints import CENTERED, FAMILIES
from labeler.subject.model import Subject
from tests.subject import families

HOOKS = Path(__file__).parents[1] / "golden" / "hooks"
DOCS = Path(__file__).parents[2] / "docs" / "hook-names.md"
PARTS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "mlp.hook_in",
    "mlp.hook_post",
    "ln2.hook_normalized",
)
# What no module's input or output holds, or what TransformerLens and others call by one name.
REFUSED_EVERYWHERE = (
    "hook_mlp_in",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "ln1.hook_normalized",
    "ln1_post.hook_normalized",
    "ln2_post.hook_normalized",
)
PARALLEL = {"gpt_neox", "gptj", "phi"}
LAYER_NORM = {"gpt2", "gpt_neo", "gpt_neox", "gpt_neox_sequential", "gptj", "opt", "phi", "olmo"}
# Beside REFUSED_EVERYWHERE, by family.
REFUSED = {
    **{family: {"ln2.hook_normalized"} for family in (*LAYER_NORM, "bloom", "olmo2", "olmo3")},
    **{family: {"ln2.hook_normalized", "hook_resid_mid"} for family in PARALLEL},
    **{family: {"mlp.hook_post"} for family in ("mixtral", "olmoe", "gpt_oss")},
}


@cache
def recorded(family: str) -> dict[str, torch.Tensor]:
    with np.load(HOOKS / f"{family}.npz") as arrays:
        return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}


@cache
def subject(family: str) -> Subject:
    model = families.build(family)
    weights = {name[7:]: value for name, value in recorded(family).items() if name.startswith("weight/")}
    model.load_state_dict(weights, strict=False)
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters() if name in weights)
    return Subject(family, "tiny", model, None, "cpu")


def vector(family: str, name: str) -> torch.Tensor:
    s = subject(family)
    place = s.hookpoint(name)
    # Two sequences, so that a module that takes all tokens in one row is put in order again.
    both = torch.cat([families.IDS.flip(1), families.IDS])
    return s.hidden(both, [place])[place][1]


def test_every_family_of_the_table_was_recorded() -> None:
    assert {subject(family).model_type for family in families.FAMILIES} == set(FAMILIES)
    assert set(families.FAMILIES) == {path.stem for path in HOOKS.glob("*.npz")}


@pytest.mark.parametrize("block", [0, 1])
@pytest.mark.parametrize("part", [*PARTS, *REFUSED_EVERYWHERE])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_a_name_gives_the_vector_of_transformer_lens_or_is_refused(family: str, part: str, block: int) -> None:
    name = f"blocks.{block}.{part}"
    if part in REFUSED_EVERYWHERE or part in REFUSED.get(family, ()):
        with pytest.raises(NotFoundError, match="does not translate"):
            vector(family, name)
        return
    torch.testing.assert_close(vector(family, name), recorded(family)[f"plain/{name}"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["hook_embed", "ln_final.hook_normalized"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_hooks_outside_the_blocks_are_refused(family: str, name: str) -> None:
    with pytest.raises(NotFoundError):
        vector(family, name)


@pytest.mark.parametrize(
    "part", ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"]
)
@pytest.mark.parametrize("family", families.FAMILIES)
def test_what_default_loading_centers_is_known(family: str, part: str) -> None:
    """TransformerLens' default loading takes the mean over d away, in families with LayerNorm and in no others."""
    name, known = f"blocks.1.{part}", FAMILIES[subject(family).model_type].is_centered
    assert known == (None if family == "bloom" else family in LAYER_NORM)
    if part in REFUSED.get(family, ()):
        return
    if not known:
        with pytest.raises(InputError, match=r"leave out \|centered"):
            vector(family, f"{name}|{CENTERED}")
    # It does not load what normalizes after attention and MLP by default, and computes gpt_oss otherwise.
    if known is None or family in ("olmo2", "olmo3", "gpt_oss"):
        return
    expected = recorded(family)[f"default/{name}"]
    given = vector(family, f"{name}|{CENTERED}" if known else name)
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("part", ["attn.hook_z", "mlp.hook_in", "mlp.hook_post"])
def test_centering_is_refused_of_what_it_does_not_change(part: str) -> None:
    with pytest.raises(InputError, match="do not take its mean over d away"):
        vector("gpt2", f"blocks.1.{part}|{CENTERED}")


@pytest.mark.parametrize(
    ("family", "setting", "value"),
    [("opt", "do_layer_norm_before", False), ("bloom", "apply_residual_connection_post_layernorm", True)],
)
def test_a_setting_that_moves_a_norm_is_refused(family: str, setting: str, value: bool) -> None:
    model = families.build(family)
    setattr(model.config, setting, value)
    with pytest.raises(NotFoundError, match="were not checked"):
        Subject(family, "tiny", model, None, "cpu").hookpoint("blocks.1.hook_mlp_out")


@pytest.mark.parametrize("submodule", SUBMODULES)
@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_submodules_of_dictionary_learning_are_the_same_places(family: str, submodule: str) -> None:
    """`mlp_out_layer_1` and its like are what the sublayer adds to the residual stream, after all norms."""
    before, after = (recorded(family)[f"plain/blocks.1.hook_resid_{x}"] for x in ("pre", "post"))
    given = vector(family, f"blocks.1.{SUBMODULES[submodule]}")
    if submodule.startswith("resid"):
        torch.testing.assert_close(given, before if submodule == "resid_pre" else after, atol=1e-4, rtol=1e-4)
        return
    other = vector(family, f"blocks.1.{'hook_attn_out' if submodule == 'mlp_out' else 'hook_mlp_out'}")
    torch.testing.assert_close(before + given + other, after, atol=1e-4, rtol=1e-3)


def table() -> str:
    """The table of the documentation: where each hook name reads, in which families."""
    places: dict[tuple[str, str], list[str]] = {}
    for part in PARTS:
        for family in families.FAMILIES:
            try:
                place = subject(family).hookpoint(f"blocks.1.{part}")
            except NotFoundError:
                words = "refused"
            else:
                path = re.sub(r"^.*?\.1(\.|$)", "", place.path)
                words = f"{place.reads} of {f'`{path}`' if path else 'the block'}"
                words += ", before its gain" if place.adjust else ""
            places.setdefault((part, words), []).append(family)
    lines = ["| hook name | read at | families |", "|---|---|---|"]
    lines += [f"| `{part}` | {words} | {', '.join(found)} |" for (part, words), found in places.items()]
    return "\n".join(lines)


def test_the_page_of_the_documentation_is_what_the_code_does() -> None:
    assert table() in DOCS.read_text(), "write the output of `python -m tests.subject.test_hook_names` into it"


if __name__ == "__main__":
    print(table())
