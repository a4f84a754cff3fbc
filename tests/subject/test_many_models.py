"""The residual stream is found in every kind of causal language model, its list of blocks wherever it is."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from labeler.subject.model import Subject

# Values under all names that configurations have for them.
_SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "max_position_embeddings": 32,
    "moe_intermediate_size": 8,
    "num_local_experts": 2,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "shared_expert_intermediate_size": 8,
}
MODEL_TYPES = [
    "apertus",
    "arcee",
    "biogpt",
    "bitnet",
    "bloom",
    "cohere",
    "cohere2",
    "diffllama",
    "ernie4_5",
    "exaone4",
    "gemma4_text",
    "glm",
    "glm4",
    "gpt_bigcode",
    "gpt_oss",
    "granite",
    "helium",
    "hunyuan_v1_dense",
    "lfm2",
    "llama4_text",
    "minimax",
    "ministral",
    "mistral",
    "mixtral",
    "mpt",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "opt",
    "phi",
    "phi3",
    "qwen2_moe",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "recurrent_gemma",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "xglm",
]
MULTIMODAL = ("gemma3", "llama4", "mistral3", "qwen2_5_vl", "qwen3_vl")
IDS = torch.tensor([[5, 9, 2, 17, 30, 11]])


def residual_streams(model: torch.nn.Module, model_type: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What is read before block 1 and after block 0, and what the model itself says is between them."""
    subject = Subject(model_type, "tiny", model, None, "cpu")
    places = [subject.hookpoint(name) for name in ("blocks.1.hook_resid_pre", "blocks.0.hook_resid_post")]
    hidden = subject.hidden(IDS, places)
    text = getattr(model, "language_model", model)  # Llama 4's own wrapper fails without an image
    said = text(IDS, output_hidden_states=True, use_cache=False).hidden_states[1]
    return hidden[places[0]], hidden[places[1]], said


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_residual_stream_is_found(model_type: str) -> None:
    if model_type not in _known():
        pytest.skip(f"the installed transformers has no {model_type}")
    config = type(AutoConfig.for_model(model_type))(**_SMALL)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    before, after, said = residual_streams(model, model_type)
    torch.testing.assert_close(before, said, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, said, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", MULTIMODAL)
def test_the_text_model_is_found_inside_a_multimodal_one(model_type: str) -> None:
    if model_type not in _known():
        pytest.skip(f"the installed transformers has no {model_type}")
    config = AutoConfig.for_model(model_type)
    text = type(config.get_text_config())
    small = {**_SMALL, "num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    # More blocks than the text model has: the longest list is not the one that is looked for.
    depth = {"num_hidden_layers": 4, "depth": 4, "out_hidden_size": 16, "num_heads": 2, "deepstack_visual_indexes": [0]}
    values = {**small, "rope_parameters": {**small["rope_parameters"], "rope_theta": 1e4}}
    if not model_type.startswith("qwen"):
        values.pop("rope_parameters")
    config = type(config)(text_config=text(**values).to_dict(), vision_config={**vision, **depth})
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    before, after, said = residual_streams(model, model_type)
    torch.testing.assert_close(before, said, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after, said, atol=1e-4, rtol=1e-4)


def _known() -> set[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return set(CONFIG_MAPPING)
