"""Name places in a subject: a module's output or input, and the TransformerLens names for them.

    model.layers.12                  the module's output
    model.layers.12:input            its input
    blocks.12.hook_resid_pre         a lens name: translated for the subject's family, or refused
    model.layers.7+model.layers.13   the vectors of both, one beside the other, as some crosscoders read them

A lens name is translated only where the module it stands for was checked against TransformerLens on a model of that
family (tests/subject/test_hook_names.py); elsewhere the error shows the block's modules, since a wrong one is a wrong
vector that nothing else would notice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from labeler.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from torch import nn

SIDES = ("input", "output")
CENTERED, UNGAINED = "centered", "ungained"


@dataclass(frozen=True)
class Hookpoint:
    """A module of the subject, whether its input or its output is read, and what is done to it."""

    path: str
    reads: str = "output"  # "input" or "output"
    # "centered": minus its mean over d, as TransformerLens' centered weights give it; "ungained": a norm's output before
    # the norm's gain.
    adjust: str = ""
    members: tuple[Hookpoint, ...] = ()  # of a place that is several: their vectors are read one beside the other

    @classmethod
    def several(cls, members: Sequence[Hookpoint]) -> Hookpoint:
        return cls("+".join(map(str, members)), members=tuple(members))

    def __str__(self) -> str:
        if self.members:
            return self.path
        place = self.path if self.reads == "output" else f"{self.path}:input"
        return f"{place}|{self.adjust}" if self.adjust else place


def parse_hookpoint(name: str) -> tuple[str, str | None, str]:
    """(name, side, adjustment) of `NAME:input` or `NAME:output|centered`; the side is None where it is not said."""
    place, _, adjust = name.partition("|")
    if adjust not in ("", CENTERED, UNGAINED):
        raise InputError(f"hookpoint {name!r}: {adjust!r} is not known; choose {CENTERED} or {UNGAINED}")
    path, colon, side = place.rpartition(":")
    if not colon:
        return place, None, adjust
    if side not in SIDES:
        raise InputError(f"hookpoint {name!r}: expected PATH, PATH:input or PATH:output")
    return path, side, adjust


@dataclass(frozen=True)
class Family:
    """Module paths within a block for TransformerLens' names of its parts."""

    attention: str  # writes hook_attn_out
    heads: str  # the projection whose input holds the concatenated heads
    mlp: str  # writes hook_mlp_out
    mlp_in: str  # the module whose input is mlp.hook_in
    down: str | None  # the projection whose input is mlp.hook_post; None where experts have one each
    middle: str | None  # the module whose input is the residual stream after attention; None where there is no middle
    gained: str | None = None  # the norm that ln2.hook_normalized is taken of, before its gain (RMSNorm)
    # What TransformerLens' centered weights do: nothing (RMSNorm), take the mean over d away (LayerNorm), or, None, take
    # a part of it away that cannot be reproduced.
    is_centered: bool | None = False


_NORM = "post_attention_layernorm"
_GPT2 = Family("attn", "attn.c_proj", "mlp", "mlp", "mlp.c_proj", "ln_2", is_centered=True)
_LLAMA = Family("self_attn", "self_attn.o_proj", "mlp", "mlp", "mlp.down_proj", _NORM, gained=_NORM)
# Gemma 2 and 3 normalize once more what attention and MLP give, before it joins the residual stream.
_PRE, _POST = "pre_feedforward_layernorm", "post_feedforward_layernorm"
_GEMMA2 = replace(_LLAMA, attention=_NORM, mlp=_POST, middle=_PRE, gained=_PRE)
# Each was checked against TransformerLens' own vectors (tests/subject/test_hook_names.py).
FAMILIES = {
    "gpt2": _GPT2,
    "gpt_neo": replace(_GPT2, heads="attn.attention.out_proj"),
    # Where attention and MLP read the same residual stream, as in Pythia, there is no middle (`family_of`).
    "gpt_neox": replace(_GPT2, attention="attention", heads="attention.dense", down="mlp.dense_4h_to_h", middle=_NORM),
    "gptj": replace(_GPT2, heads="attn.out_proj", down="mlp.fc_out", middle=None),
    "phi": replace(_GPT2, attention="self_attn", heads="self_attn.dense", down="mlp.fc2", middle=None),
    "opt": Family("self_attn", "self_attn.out_proj", "fc2", "fc1", "fc2", "final_layer_norm", is_centered=True),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3"), _LLAMA),
    **dict.fromkeys(("mixtral", "olmoe", "gpt_oss"), replace(_LLAMA, down=None)),
    # Its modules self_attention and mlp add the residual stream to what they give; a mean is left by its first norm.
    "bloom": Family(
        "self_attention.dense",
        "self_attention.dense",
        "mlp.dense_4h_to_h",
        "mlp",
        "mlp.dense_4h_to_h",
        _NORM,
        is_centered=None,
    ),
    "olmo": replace(_LLAMA, gained=None, is_centered=True),
    # They normalize what attention and MLP give, and not what they read.
    **dict.fromkeys(("olmo2", "olmo3"), replace(_LLAMA, attention=_NORM, mlp=_POST, middle="mlp", gained=None)),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA2),
}

_LENS_NAME = re.compile(r"blocks\.(\d+)\.(.+)")
_IN_BLOCK: dict[str, Callable[[str, Family], Hookpoint | None]] = {
    "hook_resid_mid": lambda b, f: _within(b, f.middle, "input"),
    "hook_attn_out": lambda b, f: _within(b, f.attention),
    "hook_mlp_out": lambda b, f: _within(b, f.mlp),
    "attn.hook_z": lambda b, f: _within(b, f.heads, "input"),
    "mlp.hook_in": lambda b, f: _within(b, f.mlp_in, "input"),
    "mlp.hook_post": lambda b, f: _within(b, f.down, "input"),
    "ln2.hook_normalized": lambda b, f: _within(b, f.gained, adjust=UNGAINED),
}


def _within(block: str, path: str | None, reads: str = "output", adjust: str = "") -> Hookpoint | None:
    return None if path is None else Hookpoint(f"{block}.{path}", reads, adjust)


_RESIDUAL = {"hook_resid_pre": "input", "hook_resid_post": "output"}
LENS_PARTS = (*_RESIDUAL, *_IN_BLOCK)
# Of which the residual stream is made; centered weights change these, and nothing else.
_CENTERED_PARTS = (*_RESIDUAL, "hook_resid_mid", "hook_attn_out", "hook_mlp_out")
# Settings that move a norm within the block: OPT 350M has its norms after attention and MLP.
_CHECKED_WITH = {"do_layer_norm_before": True, "apply_residual_connection_post_layernorm": False}
_AMBIGUOUS = {
    "hook_mlp_in": "it is the residual before the norm in TransformerLens and the normed input elsewhere",
    "ln2.hook_normalized": "whether the norm's gain is in it depends on how TransformerLens loaded the model",
}


def family_of(model_type: str, config: object = None) -> Family | None:
    """Return where the parts of a model's blocks are; None where they were not checked."""
    family = FAMILIES.get(model_type)
    if family is None or any(getattr(config, name, value) != value for name, value in _CHECKED_WITH.items()):
        return None
    return replace(family, middle=None) if getattr(config, "use_parallel_residual", False) else family


def translate_hook_name(name: str, model_type: str, blocks: str, config: object = None) -> Hookpoint | None:
    """The place that a lens name stands for; None for a name that is no lens name. Raises NotFoundError.

    `blocks` is the path of the subject's list of blocks, `config` the configuration of its text model.
    """
    if name == "hook_embed":
        raise NotFoundError(
            "hook name 'hook_embed': give the embedding module with --hookpoint, such as model.embed_tokens (its scale differs "
            "between families)"
        )
    match = _LENS_NAME.fullmatch(name)
    if match is None:
        return None
    block, part = f"{blocks}.{int(match[1])}", match[2]
    if part in _RESIDUAL:
        return Hookpoint(block, _RESIDUAL[part])
    family = family_of(model_type, config)
    if family is None:
        why = f"the parts of a {model_type!r} block were not checked (known: {', '.join(sorted(FAMILIES))})"
    else:
        place = _IN_BLOCK[part](block, family) if part in _IN_BLOCK else None
        if place is not None:
            return place
        why = _AMBIGUOUS.get(part, f"a {model_type!r} block has no such place (known: {', '.join(LENS_PARTS)})")
    raise NotFoundError(
        f"hook name {name!r} does not translate: {why}; give the module and its side with --hookpoint, such as "
        f"{block}:input"
    )


def is_lens_name(name: str) -> bool:
    return name == "hook_embed" or _LENS_NAME.fullmatch(parse_hookpoint(name)[0]) is not None


def reads_an_input(name: str) -> bool:
    """Return True if a place that a file names is a module's input."""
    plain, side, _ = parse_hookpoint(name)
    match = _LENS_NAME.fullmatch(plain)
    if match is None:
        return side == "input"
    return match[2] in ("hook_resid_pre", "hook_resid_mid", "attn.hook_z", "mlp.hook_in", "mlp.hook_post")


def blocks_of(model: nn.Module) -> str:
    """Return the path of the list of decoder blocks: the text model's longest module list outside any other.

    Raises NotFoundError where there is none, or two are as long.
    """
    from torch import nn

    lists = [(path, len(module)) for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [(p, n) for p, n in lists if not any(p.startswith(f"{q}.") for q, _ in lists)]
    decoder = _decoder_path(model)
    inside = [(p, n) for p, n in outer if decoder and p.startswith(f"{decoder}.")] or outer
    if not inside:
        raise NotFoundError("this model has no list of blocks: give the module path with --hookpoint")
    longest = max(n for _, n in inside)
    found = [p for p, n in inside if n == longest]
    if len(found) > 1:
        raise NotFoundError(
            f"this model has several lists of blocks ({', '.join(found)}): give the module path with --hookpoint"
        )
    return str(found[0])


def _decoder_path(model: nn.Module) -> str | None:
    """Return the path of the text model within a multimodal wrapper."""
    found = getattr(model, "get_decoder", lambda: None)()
    return next((path for path, module in model.named_modules() if module is found and path), None)


def find_hookpoint(model: nn.Module, name: str, *, model_type: str, reads: str | None = None) -> Hookpoint:
    """The hookpoint called `name` in `model`, allowing for a left-out prefix such as `model.` or `transformer.`.

    Raises NotFoundError naming the nearest module paths.
    """
    if "+" in name:
        return Hookpoint.several([find_hookpoint(model, one, model_type=model_type) for one in name.split("+")])
    plain, side, adjust = parse_hookpoint(name)
    if side is not None and reads is not None and side != reads:
        raise InputError(f"hookpoint {name!r} names the {side}, and the {reads} is to be read: give one of them")
    _check_centering(name, plain, adjust, model_type)
    blocks = blocks_of(model) if is_lens_name(plain) else ""
    hookpoint = translate_hook_name(plain, model_type, blocks, _text_config(model))
    hookpoint = hookpoint or Hookpoint(plain)
    modules = {path for path, _ in model.named_modules() if path}
    for path in _spellings(model, hookpoint.path):
        if path in modules:
            return Hookpoint(path, side or reads or hookpoint.reads, adjust or hookpoint.adjust)
    nearest = difflib.get_close_matches(hookpoint.path, sorted(modules), n=4, cutoff=0.0)
    raise NotFoundError(f"hookpoint {name!r} is not a module of this model; the nearest are {', '.join(nearest)}")


def _check_centering(name: str, plain: str, adjust: str, model_type: str) -> None:
    """Refuse `|centered` where TransformerLens' centered weights leave a hidden state as it is, or otherwise than that."""
    if adjust != CENTERED:
        return
    match, family = _LENS_NAME.fullmatch(plain), FAMILIES.get(model_type)
    is_other_part = match is not None and match[2] not in _CENTERED_PARTS
    if is_other_part or (family is not None and not family.is_centered):
        raise InputError(
            f"hookpoint {name!r}: TransformerLens' centered weights do not take its mean over d away in {model_type!r} models: leave "
            f"out |{CENTERED}"
        )


def _text_config(model: nn.Module) -> object:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _spellings(model: nn.Module, path: str) -> list[str]:
    """The path itself, and what wrappers and libraries make of it."""
    prefix = getattr(model, "base_model_prefix", "")
    found = [path, f"{prefix}.{path}", path.removeprefix("model.")]
    decoder = _decoder_path(model)
    if decoder is not None and "." in decoder:
        # Published for the text model; a multimodal wrapper keeps its blocks one level deeper.
        found += [f"{decoder}.{path.removeprefix('model.')}", f"{decoder}.{path}"]
    return found
