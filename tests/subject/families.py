"""Tiny models of the families whose hook names TransformerLens defines, with norm gains and biases that are not trivial."""

from __future__ import annotations

from typing import Any

import torch
import transformers

D, HEADS, LAYERS, VOCABULARY, POSITIONS = 16, 2, 2, 32, 16
IDS = torch.tensor([[5, 9, 2, 17, 30, 11]])
_COMMON: dict[str, Any] = {
    "hidden_size": D,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_GROUPED = {**_COMMON, "num_key_value_heads": HEADS, "head_dim": 8}
_ATTENTION_TYPES = [[["global", "local"], 1]]
# (configuration, its values, the name under which TransformerLens knows a model of this family)
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "gpt2": (
        "GPT2Config",
        {"n_embd": D, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCABULARY, "n_positions": POSITIONS},
        "gpt2",
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": D,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "vocab_size": VOCABULARY,
            "attention_types": _ATTENTION_TYPES,
            "max_position_embeddings": POSITIONS,
            "window_size": 4,
            "intermediate_size": 24,
        },
        "EleutherAI/gpt-neo-125M",
    ),
    "gpt_neox": ("GPTNeoXConfig", {**_COMMON, "rotary_pct": 0.25}, "EleutherAI/pythia-70m-deduped"),
    "gpt_neox_sequential": (
        "GPTNeoXConfig",
        {**_COMMON, "rotary_pct": 0.25, "use_parallel_residual": False},
        "EleutherAI/pythia-70m-deduped",
    ),
    "gptj": (
        "GPTJConfig",
        {
            "n_embd": D,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_inner": 24,
            "vocab_size": VOCABULARY,
            "n_positions": POSITIONS,
            "rotary_dim": 4,
        },
        "EleutherAI/gpt-j-6B",
    ),
    "opt": (
        "OPTConfig",
        {**_COMMON, "ffn_dim": 24, "word_embed_proj_dim": D, "do_layer_norm_before": True},
        "facebook/opt-125m",
    ),
    "bloom": (
        "BloomConfig",
        {"hidden_size": D, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCABULARY},
        "bigscience/bloom-560m",
    ),
    "phi": ("PhiConfig", {**_COMMON, "partial_rotary_factor": 0.5}, "microsoft/phi-2"),
    "phi3": ("Phi3Config", _GROUPED, "microsoft/Phi-3-mini-4k-instruct"),
    "llama": ("LlamaConfig", _GROUPED, "meta-llama/Llama-2-7b-hf"),
    "mistral": ("MistralConfig", _GROUPED, "mistralai/Mistral-7B-v0.1"),
    "mixtral": ("MixtralConfig", {**_GROUPED, "num_local_experts": 2}, "mistralai/Mixtral-8x7B-v0.1"),
    "qwen2": ("Qwen2Config", _GROUPED, "Qwen/Qwen2.5-0.5B"),
    "qwen3": ("Qwen3Config", _GROUPED, "Qwen/Qwen3-0.6B"),
    "gemma": ("GemmaConfig", _GROUPED, "google/gemma-2b"),
    "gemma2": ("Gemma2Config", {**_GROUPED, "query_pre_attn_scalar": 8}, "google/gemma-2-2b"),
    "gemma3_text": ("Gemma3TextConfig", {**_GROUPED, "query_pre_attn_scalar": 8}, "google/gemma-3-1b-pt"),
    "olmo": ("OlmoConfig", _COMMON, "allenai/OLMo-1B-hf"),
    "olmo2": ("Olmo2Config", _COMMON, "allenai/OLMo-2-0425-1B"),
    "olmo3": ("Olmo3Config", _COMMON, "allenai/Olmo-3-7B-Instruct"),
    "olmoe": ("OlmoeConfig", {**_COMMON, "num_experts": 3, "num_experts_per_tok": 2}, "allenai/OLMoE-1B-7B-0924"),
    "gpt_oss": (
        "GptOssConfig",
        {**_GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2},
        "openai/gpt-oss-20b",
    ),
}


def build(family: str) -> Any:
    """A model of the family without useful weights, in evaluation mode."""
    name, values, _ = FAMILIES[family]
    config = getattr(transformers, name)(**values)
    config._attn_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
