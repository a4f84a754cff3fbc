"""Record what TransformerLens' hooks hold, on a tiny model of each family: `python -m tests.golden.make_hooks`.

Needs transformer-lens (3.9.0 was used, the last version with HookedTransformer), which the tests do not. Writes
hooks/FAMILY.npz: the weights of the transformers model (`weight/NAME`, float16), the vectors of each hook with
TransformerLens' weights as they are (`plain/NAME`), and with its default processing (`default/NAME`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as loading

from tests.subject.families import FAMILIES, HEADS, IDS, LAYERS, POSITIONS, VOCABULARY, D, build

HERE = Path(__file__).parent / "hooks"
PARTS = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "hook_mlp_in",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_z",
    "mlp.hook_in",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_post",
    "ln1.hook_normalized",
    "ln2.hook_normalized",
    "ln1_post.hook_normalized",
    "ln2_post.hook_normalized",
)
_PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for family in sys.argv[1:] or FAMILIES:
        try:
            arrays = recorded(family)
        except Exception as error:
            print(f"{family}: not recorded ({type(error).__name__}: {str(error)[:150]})")
            continue
        np.savez_compressed(HERE / f"{family}.npz", **arrays)
        names = sorted(name.removeprefix("plain/") for name in arrays if name.startswith("plain/"))
        print(f"{family}: {len(names)} hooks, {(HERE / f'{family}.npz').stat().st_size:,} bytes")


def recorded(family: str) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = build(family)
    model.config.architectures = [type(model).__name__]
    # Names of older transformers that TransformerLens asks for.
    model.config.n_ctx, model.config.partial_rotary_factor = POSITIONS, 0.5 if family == "phi" else None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if "norm" in name or "ln_" in name else 0.2
            parameter.add_(torch.randn(parameter.shape) * scale)
            parameter.copy_(parameter.half().float())
    arrays = {
        f"weight/{name}": value.half().numpy()
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    last = model(IDS, output_hidden_states=True).hidden_states[1].detach()
    for mode, processed in (("plain", False), ("default", True)):
        with mock.patch.object(loading.AutoConfig, "from_pretrained", return_value=model.config):
            lens = lens_of(family, model, processed)
        for name, value in captured(lens).items():
            arrays[f"{mode}/{name}"] = value.numpy()
    first = torch.from_numpy(arrays["plain/blocks.0.hook_resid_post"])
    # The tiny model that TransformerLens builds must be the same model, or its hooks say nothing.
    torch.testing.assert_close(first, last[0], atol=1e-4, rtol=1e-4)
    return arrays


def lens_of(family: str, model: Any, processed: bool) -> HookedTransformer:
    """The model in TransformerLens, with weights as they are or with its default processing."""
    name = FAMILIES[family][2]
    values = loading.convert_hf_model_config(name)
    config = model.config
    head = getattr(config, "head_dim", None) or D // HEADS
    heads = getattr(config, "num_key_value_heads", None)
    width = next((w for k in ("intermediate_size", "ffn_dim", "n_inner") if (w := getattr(config, k, None))), 4 * D)
    values |= {
        "d_model": D,
        "n_heads": HEADS,
        "d_head": head,
        "d_mlp": width,
        "n_layers": LAYERS,
        "d_vocab": VOCABULARY,
        "n_ctx": POSITIONS,
        "original_architecture": type(model).__name__,
        "device": "cpu",
        "dtype": torch.float32,
        "default_prepend_bos": False,
        "tokenizer_name": None,
    }
    if "n_key_value_heads" in values:
        values["n_key_value_heads"] = heads
    if values.get("rotary_dim"):
        values["rotary_dim"] = rotary_of(family, config, head)
    for key in ("attn_types", "window_size"):
        if values.get(key) and key == "attn_types":
            values[key] = values[key][:LAYERS]
    rope = getattr(config, "rope_parameters", None) or {}
    if "rotary_base" in values and isinstance(rope.get("rope_theta"), int | float):
        values["rotary_base"] = rope["rope_theta"]
    names = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
    values["eps"] = next((eps for name in names if (eps := getattr(config, name, None))), 1e-5)
    if family in ("gemma2", "gemma3_text"):
        values["attn_scale"] = float(config.query_pre_attn_scalar) ** 0.5
        values["window_size"] = config.sliding_window
        values["attn_types"] = ["local" if kind.startswith("sliding") else "global" for kind in config.layer_types]
    if family == "gemma":
        values["act_fn"] = "gelu_pytorch_tanh"  # as transformers computes it; TransformerLens' table says gelu
    cfg = HookedTransformerConfig.from_dict(values)
    cfg.use_hook_mlp_in = True
    state = loading.get_pretrained_state_dict(name, cfg, hf_model=model)
    lens = HookedTransformer(cfg, move_to_device=False)
    lens.load_and_process_state_dict(state, **dict.fromkeys(_PROCESSING, processed))
    return lens.eval()


def rotary_of(family: str, config: Any, head: int) -> int:
    if family == "gptj":
        return int(config.rotary_dim)
    share = getattr(config, "partial_rotary_factor", None) or getattr(config, "rotary_pct", None)
    share = share or (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    return int(head * share)


def captured(lens: HookedTransformer) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    handles = [
        block.mlp.register_forward_pre_hook(
            lambda _, args, n=n: found.__setitem__(f"blocks.{n}.mlp.hook_in", args[0].detach()[0].clone())
        )
        for n, block in enumerate(lens.blocks)
    ]
    with torch.no_grad():
        _, cache = lens.run_with_cache(IDS, prepend_bos=False)
    for handle in handles:
        handle.remove()
    for n in range(LAYERS):
        for part in PARTS:
            if (name := f"blocks.{n}.{part}") in cache:
                found[name] = cache[name][0].flatten(1).detach()
    found |= {name: cache[name][0].detach() for name in ("hook_embed", "ln_final.hook_normalized") if name in cache}
    return found


if __name__ == "__main__":
    main()
