"""A subject of three layers, and sets of SAEs whose features write to several of them, in their publishers' files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.planted import CHARACTERS, Planted

PUBLISHED = Path(__file__).parent / "golden" / "published"
CLT = PUBLISHED / "circuit_tracer" / "ct_clt_relu"
N_LAYERS, D, F = 3, 16, 64


def write_subject(planted: Planted, folder: Path) -> Path:
    """Write a random Gemma 2, whose MLPs end in a norm of their own, with the planted subject's tokenizer and a BOS token."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(planted.subject / name, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<|endoftext|>"}))
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=1 + len(CHARACTERS),
            hidden_size=D,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=32,
            max_position_embeddings=128,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if "norm" in name else 0.2))
    model.save_pretrained(folder)
    return folder


def write_gemma_scope_2(folder: Path, layers: tuple[int, ...], *, affine: bool = False) -> Path:
    """Write a CLT (below `clt/`) or a crosscoder (below `crosscoder/`) as Gemma Scope 2 has them: a file for each layer."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(1)
    is_clt = "clt" in folder.parts
    for number in range(len(layers)):
        tensors = {
            "w_enc": torch.randn(D, F, generator=generator),
            "w_dec": torch.randn(F, len(layers), D, generator=generator),
            "b_enc": torch.randn(F, generator=generator),
            "b_dec": torch.randn(D, generator=generator),
            "threshold": torch.rand(F, generator=generator) * 3,
        }
        if affine:
            tensors["affine_skip_connection"] = torch.randn(D, D, generator=generator)
        save_file(tensors, folder / f"params_layer_{number}.safetensors")
    braces = "{" + ",".join(map(str, layers)) + "}"
    places = {
        "hf_hook_point_in": f"model.layers.{braces}.pre_feedforward_layernorm.output",
        "hf_hook_point_out": f"model.layers.{braces}.post_feedforward_layernorm.output",
    }
    if not is_clt:
        places = dict.fromkeys(places, f"model.layers.{braces}.output")
    config = {"architecture": "jump_relu", "width": F, "affine_connection": affine, "num_layers": len(layers), **places}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
